from dataclasses import replace

import pytest

from serve_app.contracts import ImagePart, Message, Part, TextPart, Thinking, ToolCall
from serve_app.errors import InvalidRequest
from serve_app.preprocess.normalize_messages import normalize_messages
from serve_app.preprocess.thinking import ThinkingAbility, ends_with_nothink, remove_nothink, resolve_thinking

PICTURE = ImagePart(b"")
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
    assert resolve_thinking(asked, ability) == expected


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
    assert resolve_thinking(asked, ability, typed_nothink=True) == expected


@pytest.mark.parametrize(
    ("asked", "ability", "reason"),
    [
        (Thinking(True), NEVER, "does not support thinking"),
        (Thinking(None, 7), NEVER, "does not support thinking"),
        (Thinking(False), ALWAYS, "always thinks"),
        (Thinking(False, 7), SWITCH, "needs thinking to be enabled"),
        (Thinking(None, 7), UNMARKED, "budget"),
    ],
)
def test_what_the_model_cannot_do_is_refused(asked: Thinking, ability: ThinkingAbility, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        resolve_thinking(replace(asked, param="reasoning_effort"), ability)
    assert refused.value.param == "reasoning_effort"


@pytest.mark.parametrize(
    ("parts", "switched", "remaining"),
    [
        ((TextPart("Q/nothink"),), True, (TextPart("Q"),)),
        ((TextPart("Q /nothink \n"),), True, (TextPart("Q "),)),
        ((TextPart("Q/no"), TextPart("think")), True, (TextPart("Q"),)),
        ((PICTURE, TextPart("/nothink")), True, (PICTURE,)),
        ((TextPart("Q/nothink"), PICTURE), False, (TextPart("Q/nothink"), PICTURE)),
        ((TextPart("/nothink Q"),), False, (TextPart("/nothink Q"),)),
        ((TextPart("Q/think"),), False, (TextPart("Q/think"),)),
    ],
)
def test_a_typed_switch_counts_at_the_very_end_only(
    parts: tuple[Part, ...], switched: bool, remaining: tuple[Part, ...]
) -> None:
    called = Message("assistant", (), tool_calls=(ToolCall("1", "look", {}),))
    messages = [Message("user", parts), called, Message("tool", ())]
    assert ends_with_nothink(messages) is switched
    assert remove_nothink(normalize_messages(messages))[0].parts == remaining


def test_a_question_that_is_only_the_switch_is_refused_with_its_field() -> None:
    with pytest.raises(InvalidRequest, match=r"input\[2\] is only /nothink") as refused:
        remove_nothink([Message("user", (TextPart(" /nothink"),), param="input[2]")])
    assert refused.value.param == "input[2]"
