import pytest

from serve_app.contracts import Thinking
from serve_app.errors import InvalidRequest
from serve_app.preprocess.thinking import ThinkingAbility, resolve

NEVER = ThinkingAbility()
ALWAYS = ThinkingAbility(always=True, budget=True)
SWITCH = ThinkingAbility(switch=True, default=True, budget=True)
OFF_BY_DEFAULT = ThinkingAbility(switch=True, default=False, budget=True)
UNMARKED = ThinkingAbility(switch=True, default=True, budget=False)


@pytest.mark.parametrize(
    ("asked", "ability", "expected"),
    [
        (Thinking(), NEVER, Thinking(False)),
        (Thinking(False), NEVER, Thinking(False)),
        (Thinking(), ALWAYS, Thinking(True)),
        (Thinking(True, 7), ALWAYS, Thinking(True, 7)),
        (Thinking(), SWITCH, Thinking(True)),
        (Thinking(None, 7), SWITCH, Thinking(True, 7)),
        (Thinking(False), SWITCH, Thinking(False)),
        (Thinking(True), SWITCH, Thinking(True)),
        (Thinking(), OFF_BY_DEFAULT, Thinking(False)),
        (Thinking(True), OFF_BY_DEFAULT, Thinking(True)),
        (Thinking(None, 7), OFF_BY_DEFAULT, Thinking(True, 7)),
        (Thinking(), UNMARKED, Thinking(True)),
    ],
)
def test_what_is_asked_meets_what_the_model_can(asked: Thinking, ability: ThinkingAbility, expected: Thinking) -> None:
    assert resolve(asked, ability) == expected


@pytest.mark.parametrize(
    ("asked", "ability", "expected"),
    [
        (Thinking(), SWITCH, Thinking(False)),
        (Thinking(None, 7), SWITCH, Thinking(False)),
        (Thinking(True, 7), SWITCH, Thinking(True, 7)),
        (Thinking(), ALWAYS, Thinking(True)),
        (Thinking(), NEVER, Thinking(False)),
    ],
)
def test_a_typed_switch_holds_where_the_request_says_nothing(
    asked: Thinking, ability: ThinkingAbility, expected: Thinking
) -> None:
    assert resolve(asked, ability, asked_not_to=True) == expected


@pytest.mark.parametrize(
    ("asked", "ability", "reason"),
    [
        (Thinking(True), NEVER, "can't think"),
        (Thinking(None, 7), NEVER, "can't think"),
        (Thinking(False), ALWAYS, "this model always thinks"),
        (Thinking(False, 7), SWITCH, "only with thinking switched on"),
        (Thinking(None, 7), UNMARKED, "budget"),
    ],
)
def test_what_the_model_cannot_do_is_refused(asked: Thinking, ability: ThinkingAbility, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        resolve(asked, ability)
    assert refused.value.param == "chat_template_kwargs"
