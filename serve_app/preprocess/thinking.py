"""Whether the answer to a prompt begins with reasoning: what is asked, against what the model can."""

from dataclasses import dataclass

from serve_app.contracts import Thinking
from serve_app.errors import InvalidRequest

# Named in errors, whichever of the doors' words for thinking a caller used.
PARAM = "chat_template_kwargs"


@dataclass(frozen=True, slots=True)
class ThinkingAbility:
    """What the served model can: never think, think if it is told to, or always think."""

    always: bool = False
    switch: bool = False
    default: bool = False  # with a switch: if nothing is said
    budget: bool = False  # the end of reasoning is one token, so it can be forced

    @property
    def possible(self) -> bool:
        return self.always or self.switch


def resolve(asked: Thinking, ability: ThinkingAbility, asked_not_to: bool = False) -> Thinking:
    """What the engine goes by; `asked_not_to`: the user typed `/nothink`, which holds if the request says nothing.

    Raises InvalidRequest for what the served model can't do.
    """
    if asked.budget_tokens is not None and asked.enabled is False:
        raise InvalidRequest("a thinking budget goes only with thinking switched on", param=PARAM)
    if not ability.possible:
        if asked.enabled or asked.budget_tokens is not None:
            raise InvalidRequest("the served model can't think before it answers", param=PARAM)
        return Thinking(enabled=False)
    if ability.always and asked.enabled is False:
        raise InvalidRequest("this model always thinks; that can't be switched off", param=PARAM)
    if asked.budget_tokens is not None and not ability.budget:
        raise InvalidRequest("the served model's thinking can't be held to a budget", param=PARAM)
    if asked.enabled is not None or ability.always:
        enabled = asked.enabled is not False
    else:
        # a budget asks for thinking, whatever the template does of itself
        enabled = not asked_not_to and (ability.default or asked.budget_tokens is not None)
    return Thinking(enabled, asked.budget_tokens if enabled else None)
