"""Decides whether the answer begins with reasoning: request, a typed `/nothink`, the model's ability.

`/nothink` at the very end of the user's last question switches thinking off, as GLM-4.5V and 4.6V document
it, if the request itself does not set thinking. The template then writes the token. Anywhere else, and for
models without a thinking switch, `/nothink` is text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.contracts import Message, TextPart, Thinking
from serve_app.errors import InvalidRequest
from serve_app.preprocess.normalize_messages import join_texts

NO_THINKING = "/nothink"


@dataclass(frozen=True, slots=True)
class ThinkingAbility:
    """What the served model can do: never think, think on request, or always think."""

    always: bool = False
    switch: bool = False
    default: bool = False  # with a switch: if the request does not set it
    budget: bool = False  # the end of reasoning is one token, so it can be forced

    @property
    def possible(self) -> bool:
        return self.always or self.switch


def resolve_thinking(requested: Thinking, ability: ThinkingAbility, typed_nothink: bool = False) -> Thinking:
    """The thinking that the engine applies; `typed_nothink` counts only where the request does not set thinking.

    Raises InvalidRequest for what the served model does not support.
    """
    budget, param = requested.budget_tokens, requested.param
    if budget is not None and requested.enabled is False:
        raise InvalidRequest("A thinking budget needs thinking to be enabled.", param)
    if not ability.possible:
        if requested.enabled or budget is not None:
            raise InvalidRequest("The served model does not support thinking. Send the request without it.", param)
        return Thinking(enabled=False)
    if ability.always and requested.enabled is False:
        raise InvalidRequest("The served model always thinks; thinking cannot be disabled.", param)
    if budget is not None and not ability.budget:
        raise InvalidRequest("The served model does not support a thinking budget. Send the request without it.", param)
    if requested.enabled is not None or ability.always:
        enabled = requested.enabled is not False
    else:
        # a budget implies thinking, whatever the template's default is
        enabled = not typed_nothink and (ability.default or budget is not None)
    return Thinking(enabled, budget if enabled else None)


def ends_with_nothink(messages: Sequence[Message]) -> bool:
    """Whether the user's last question ends with a typed `/nothink`."""
    question = next((message for message in reversed(messages) if message.role == "user" and message.parts), None)
    if question is None:
        return False
    last = (join_texts(question.parts) or (TextPart(""),))[-1]
    return isinstance(last, TextPart) and last.text.rstrip().endswith(NO_THINKING)


def remove_nothink(messages: Sequence[Message]) -> list[Message]:
    """Normalized messages without `/nothink` at the end of questions, where the template writes its own.

    Raises InvalidRequest for a question that is nothing else.
    """
    return [_remove_nothink(message) if message.role == "user" else message for message in messages]


def _remove_nothink(message: Message) -> Message:
    if not message.parts:
        return message
    *before, last = message.parts
    text = last.text.rstrip() if isinstance(last, TextPart) else ""
    if not text.endswith(NO_THINKING):
        return message
    text = text.removesuffix(NO_THINKING)
    if not before and not text.strip():
        raise InvalidRequest(f"The question is empty: {message.param} is only {NO_THINKING}.", message.param)
    return replace(message, parts=(*before, TextPart(text)) if text else tuple(before))
