import pytest

from serve_app.contracts import ImagePart, Message, TextPart, Tool, ToolCall, ToolUse
from serve_app.errors import ContextTooLong, InvalidRequest
from serve_app.preprocess.conversation import Turn, asks_not_to_think, check, check_length, turns, without_switch

PICTURE = ImagePart(b"", "messages[1].content[0]")
QUESTION = Message("user", (TextPart("Q"),))
EVERYTHING = {"tools", "tool_images"}


def said(text: str, reasoning: str = "", *calls: ToolCall) -> Message:
    return Message("assistant", (TextPart(text),) if text else (), reasoning, calls)


def calling(arguments: str) -> list[Message]:
    return [QUESTION, said("", "", ToolCall("1", "look", "{}"), ToolCall("2", "look", arguments))]


def test_neighbouring_texts_are_one() -> None:
    parts = (TextPart("a"), TextPart("b"), PICTURE, PICTURE, TextPart("c"), TextPart(""))
    assert turns([Message("user", parts)])[0].content == ("ab", None, None, "c")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>hm</think>\n\nyes", "yes"),
        ("<think>\nhm\n</think>yes", "yes"),
        ("hm</think>yes", "yes"),
        ("<think>a</think>b</think>\nyes", "yes"),
        ("yes", "yes"),
        ("", ""),
    ],
)
def test_reasoning_left_in_an_earlier_answer_is_taken_out(text: str, answer: str) -> None:
    assert turns([QUESTION, said(text), QUESTION])[1] == Turn("assistant", (answer,) if answer else ())


def test_reasoning_since_the_last_question_stays() -> None:
    call = ToolCall("1", "look", "{}")
    earlier, now, inline = (
        turns([QUESTION, said("a", "old"), QUESTION, said("b", "new", call), said("<think>\nnewer\n</think>\nc")])[1::2]
        + turns([QUESTION, said("<think>\nnewer\n</think>\nc")])[1:]
    )
    assert earlier.reasoning == ""
    assert now.reasoning == "new"
    assert (inline.reasoning, inline.text) == ("newer", "c")


def test_text_beside_told_reasoning_is_the_callers_own() -> None:
    assert turns([QUESTION, said("say </think> twice", "hm"), QUESTION])[1].text == "say </think> twice"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>hm</think><answer>yes</answer>", "yes"),
        ("<think>hm</think>\n<answer>\nyes\n</answer>\n", "yes"),
        ("<answer>cut off", "cut off"),
        ("say <answer>", "say <answer>"),
    ],
)
def test_answer_marks_are_taken_out_for_models_that_write_them(text: str, answer: str) -> None:
    assert turns([QUESTION, said(text), QUESTION], answer_marks=True)[1].text == answer
    assert "<answer>" in turns([QUESTION, said(text), QUESTION])[1].text


def test_arguments_become_an_object() -> None:
    calls = turns(calling('{"a": {"b": [1, null]}}'))[1].calls
    assert [arguments for _, arguments in calls] == [{}, {"a": {"b": [1, None]}}]


@pytest.mark.parametrize(
    "arguments", ["", "x", "[1]", '"a"', "null", '{"a": NaN}', "[" * 100_000, '{"a": ' + "9" * 9999]
)
def test_arguments_that_are_no_object_are_refused_with_their_field(arguments: str) -> None:
    with pytest.raises(InvalidRequest, match="is not") as refused:
        turns(calling(arguments))
    assert refused.value.param == "messages[1].tool_calls[1].function.arguments"


@pytest.mark.parametrize(
    ("messages", "abilities", "reason", "param"),
    [
        (calling("{}"), set(), r"messages\[1\] calls a tool, and the served model can't", "messages[1]"),
        ([QUESTION, Message("tool", ())], set(), r"messages\[1\] is a tool's result", "messages[1]"),
        ([QUESTION, Message("tool", (PICTURE,))], {"tools"}, "can't see pictures in tools' results", PICTURE.param),
        ([QUESTION, Message("system", (PICTURE,))], EVERYTHING, "only user messages and tools'", PICTURE.param),
        ([QUESTION, Message("assistant", (PICTURE,))], EVERYTHING, "only user messages and tools'", PICTURE.param),
    ],
)
def test_what_the_model_cannot_be_told_is_refused(
    messages: list[Message], abilities: set[str], reason: str, param: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        check(messages, abilities, 100)
    assert refused.value.param == param


def test_the_last_message_may_be_a_tools_result() -> None:
    check([*calling("{}"), Message("tool", (TextPart("R"), PICTURE)), Message("tool", ())], EVERYTHING, 100)


@pytest.mark.parametrize(
    ("parts", "switched", "content"),
    [
        ((TextPart("Q/nothink"),), True, ("Q",)),
        ((TextPart("Q /nothink \n"),), True, ("Q ",)),
        ((TextPart("Q/no"), TextPart("think")), True, ("Q",)),
        ((PICTURE, TextPart("/nothink")), True, (None,)),
        ((TextPart("Q/nothink"), PICTURE), False, ("Q/nothink", None)),
        ((TextPart("/nothink Q"),), False, ("/nothink Q",)),
        ((TextPart("Q/think"),), False, ("Q/think",)),
    ],
)
def test_a_typed_switch_counts_at_the_very_end_only(
    parts: tuple[TextPart | ImagePart, ...], switched: bool, content: tuple[str | None, ...]
) -> None:
    messages = [Message("user", parts), said("", "", ToolCall("1", "look", "{}")), Message("tool", ())]
    assert asks_not_to_think(messages) is switched
    assert without_switch(turns(messages))[0].content == content


def test_a_question_that_is_only_the_switch_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="only /nothink") as refused:
        without_switch(turns([QUESTION, said("a"), Message("user", (TextPart(" /nothink"),))]))
    assert refused.value.param == "messages[2].content"


def tools(definition: object) -> ToolUse:
    return ToolUse((Tool("look", {"type": "function", "function": {"name": "look", "parameters": definition}}),))


@pytest.mark.parametrize(
    ("messages", "offered"),
    [
        ([Message("user", (TextPart("x" * 10_000),))], None),
        ([QUESTION] * 101, None),
        ([QUESTION, said("", "x" * 10_000)], None),
        (calling('{"a": "' + "x" * 10_000 + '"}'), None),
        (calling('{"a": [' + "1," * 100 + "1]}"), None),
        (calling('{"a": [' + "{}," * 100 + "1]}"), None),
        ([QUESTION], tools({"description": "x" * 10_000})),
        ([QUESTION], tools({str(number): True for number in range(60)})),
    ],
    ids=["text", "messages", "reasoning", "argument", "numbers", "objects", "description", "keys"],
)
def test_whatever_cannot_fit_is_refused_before_it_is_written(messages: list[Message], offered: ToolUse | None) -> None:
    spoken = turns(messages)
    with pytest.raises(ContextTooLong, match="the context is 100 tokens"):
        check_length(spoken, offered, 64, 100)
    check_length(spoken, offered, 64, 1000)


def test_more_messages_than_tokens_are_refused_at_once() -> None:
    with pytest.raises(ContextTooLong, match="there are 101 messages; the context is 100 tokens"):
        check([QUESTION] * 101, EVERYTHING, 100)


@pytest.mark.parametrize("where", ["tools", "messages"])
def test_json_nested_without_end_is_refused(where: str) -> None:
    deep: object = 1
    for _ in range(500):
        deep = {"a": deep}
    messages = calling('{"a":' * 200 + "1" + "}" * 200) if where == "messages" else [QUESTION]
    with pytest.raises(InvalidRequest, match="deeper than 100 levels") as refused:
        check_length(turns(messages), tools(deep), 64, 10_000)
    assert refused.value.param == where
