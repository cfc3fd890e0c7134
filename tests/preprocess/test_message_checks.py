from typing import Any

import pytest

from serve_app.contracts import ChatRequest, ImagePart, Message, Part, TextPart, Thinking, Tool, ToolCall, ToolUse
from serve_app.errors import ContextTooLong, InvalidRequest
from serve_app.preprocess.message_checks import check_length, check_request
from serve_app.preprocess.normalize_messages import normalize_messages

PICTURE = ImagePart(b"", "input[1].content[0]")
QUESTION = Message("user", (TextPart("Q"),))
EVERYTHING = {"tools", "tool_images"}
LOOK = {"type": "function", "function": {"name": "look"}}


def calling(arguments: dict[str, Any]) -> list[Message]:
    calls = (ToolCall("1", "look", {}), ToolCall("2", "look", arguments))
    return [QUESTION, Message("assistant", (), tool_calls=calls, param="input[1]")]


def second(role: str, *parts: Part) -> list[Message]:
    return [QUESTION, Message(role, parts, param="input[1]")]  # type: ignore[arg-type]


def check(messages: list[Message], abilities: set[str], limit: int = 100, **more: Any) -> None:
    check_request(ChatRequest("r", tuple(messages), param="input", **more), abilities, limit)


@pytest.mark.parametrize(
    ("messages", "abilities", "reason", "param"),
    [
        (calling({}), set(), r"input\[1\] calls a tool, and the served model does not support tools", "input[1]"),
        (second("tool"), set(), r"input\[1\] is the result of a tool, and the served model does not", "input[1]"),
        (second("tool", PICTURE), {"tools"}, "cannot see pictures in results of tools", PICTURE.param),
        (second("system", PICTURE), EVERYTHING, "Only user messages and results of tools", PICTURE.param),
        (second("assistant", PICTURE), EVERYTHING, "Only user messages and results of tools", PICTURE.param),
        (second("user"), EVERYTHING, r"The question is empty: input\[1\] has no text", "input[1]"),
        (second("user", TextPart("")), EVERYTHING, "question is empty", "input[1]"),
        (second("user", TextPart(" \n")), EVERYTHING, "question is empty", "input[1]"),
        ([], EVERYTHING, "no question", "input"),
        (second("system", TextPart(" "))[1:], EVERYTHING, "question is empty", "input[1]"),
        ([*second("user"), Message("system", (TextPart("x"),))], EVERYTHING, "question is empty", "input[1]"),
    ],
)
def test_what_the_model_cannot_express_is_refused_with_the_field_of_the_message(
    messages: list[Message], abilities: set[str], reason: str, param: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        check(messages, abilities)
    assert refused.value.param == param


def test_a_call_can_not_be_required_where_the_model_has_no_tools() -> None:
    required = ToolUse((Tool("look", LOOK),), required=True)
    with pytest.raises(InvalidRequest, match="does not support tools") as refused:
        check([QUESTION], set(), tools=required)
    assert refused.value.param == "tool_choice"
    check([QUESTION], {"tools"}, tools=required)


@pytest.mark.parametrize("empty", [(), (TextPart(""),), (TextPart(" \n"),)])
def test_only_the_last_turn_has_to_ask_something(empty: tuple[Part, ...]) -> None:
    answer = Message("assistant", (TextPart("How can I help?"),))
    check([Message("user", empty), answer, QUESTION], EVERYTHING)
    check([QUESTION, Message("assistant", empty), QUESTION], EVERYTHING)
    check([QUESTION, Message("system", empty)], EVERYTHING)
    check([Message("user", (PICTURE, *empty))], EVERYTHING)


def test_a_conversation_may_be_of_one_message_of_any_role() -> None:
    """OpenAI's library and AutoGen send such."""
    for role in ("system", "assistant", "user"):
        check([Message(role, (TextPart("Say hello."),))], EVERYTHING)


def test_the_last_message_may_be_a_tools_result_and_a_question_may_be_a_picture() -> None:
    check([*calling({}), Message("tool", (TextPart("R"), PICTURE)), Message("tool", ())], EVERYTHING)
    check(second("user", PICTURE), EVERYTHING)


@pytest.mark.parametrize("more", [{"thinking": Thinking(True)}, {"thinking": Thinking(False)}, {"tools": ToolUse(())}])
def test_a_text_without_template_goes_without_what_only_a_template_writes(more: dict[str, Any]) -> None:
    check([], set(), text="Once")
    for messages, others in (([QUESTION], {}), ([], more)):
        with pytest.raises(InvalidRequest, match="without messages, tools and thinking") as refused:
            check(messages, EVERYTHING, text="Once", **others)
        assert refused.value.param == "input"


def test_more_messages_than_tokens_are_refused_at_once() -> None:
    with pytest.raises(ContextTooLong, match=r"maximum context length is 100 tokens.*at least 101 tokens") as refused:
        check([QUESTION] * 101, EVERYTHING)
    assert refused.value.param == "input"


def tools(parameters: object) -> ToolUse:
    return ToolUse((Tool("look", {"type": "function", "function": {"name": "look", "parameters": parameters}}),))


@pytest.mark.parametrize(
    ("messages", "offered"),
    [
        ([Message("user", (TextPart("x" * 10_000),))], None),
        ([QUESTION] * 101, None),
        ([QUESTION, Message("assistant", (), "x" * 10_000)], None),
        (calling({"a": "x" * 10_000}), None),
        (calling({"a": [1] * 101}), None),
        (calling({"a": [{}] * 101}), None),
        ([QUESTION], tools({"description": "x" * 10_000})),
        ([QUESTION], tools({str(number): True for number in range(60)})),
    ],
    ids=["text", "messages", "reasoning", "argument", "numbers", "objects", "description", "keys"],
)
def test_whatever_cannot_fit_is_refused_before_it_is_rendered(messages: list[Message], offered: ToolUse | None) -> None:
    normalized = normalize_messages(messages)
    with pytest.raises(ContextTooLong, match="maximum context length is 100 tokens") as refused:
        check_length(normalized, offered, 64, 100, "input")
    assert refused.value.param == "input"
    check_length(normalized, offered, 64, 1000, "input")


@pytest.mark.parametrize("field", ["tools", "input[1]"])
def test_json_nested_without_end_is_refused(field: str) -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(500):
        deep = {"a": deep}
    messages, offered = ([QUESTION], tools(deep)) if field == "tools" else (calling(deep), None)
    with pytest.raises(InvalidRequest, match="deeper than 100 levels") as refused:
        check_length(normalize_messages(messages), offered, 64, 10_000, "input")
    assert refused.value.param == field
