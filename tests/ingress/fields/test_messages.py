"""The conversation: the messages of each role, and what the pipeline gets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.contracts import ImagePart, Message, TextPart, ToolCall
from serve_app.errors import InvalidRequest
from tests.ingress.client import PICTURE_URL, parse_chat, picture, text

QUESTION = {"role": "user", "content": "Weather?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "杭州"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ARGUMENTS = '{"city": "杭州", "days": [1, 2.5, null], "at": {"hour": "8 \\"sharp\\""}}'
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


def parsed(*messages: dict[str, Any]) -> tuple[Message, ...]:
    return parse_chat({"messages": list(messages)}).messages


def refused(*messages: dict[str, Any]) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as raised:
        parsed(*messages)
    return raised.value.param, raised.value.message


def test_a_tools_result_may_be_the_last_message() -> None:
    assert parsed(QUESTION, CALLING, RESULT) == (
        Message("user", (TextPart("Weather?"),)),
        Message("assistant", (), tool_calls=(ToolCall("call_1", "weather", {"city": "杭州"}),)),
        Message("tool", (TextPart("rain"),), tool_call_id="call_1"),
    )


def test_a_text_in_a_list_is_a_part() -> None:
    assert parsed({"role": "user", "content": ["Which", text("number?")]}) == parsed(
        {"role": "user", "content": [text("Which"), text("number?")]}
    )


def test_each_message_knows_its_place_in_the_request() -> None:
    assert [message.param for message in parsed(QUESTION, CALLING, RESULT)] == [
        f"messages[{index}]" for index in range(3)
    ]


def test_a_tools_result_may_be_empty_or_a_picture() -> None:
    assert parsed(QUESTION, CALLING, {**RESULT, "content": ""})[2].parts == (TextPart(""),)
    message = parsed(QUESTION, CALLING, {**RESULT, "content": [text("Radar:"), picture()]})[2]
    assert message.parts == (TextPart("Radar:"), ImagePart(PICTURE_URL, "messages[2].content[1].image_url"))


@pytest.mark.parametrize("content", [None, "", [], "Let me look."])
def test_an_answer_that_calls_may_have_text_or_none(content: Any) -> None:
    answer = parsed(QUESTION, {**CALLING, "content": content}, RESULT)[1]
    assert "".join(part.text for part in answer.parts if isinstance(part, TextPart)) == (content or "")


def test_an_answer_that_calls_may_leave_its_content_out() -> None:
    assert parsed(QUESTION, {"role": "assistant", "tool_calls": [CALL]}, RESULT)[1].tool_calls


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_earlier_reasoning_reaches_the_template(name: str) -> None:
    messages = parsed(QUESTION, {"role": "assistant", "content": "Rain.", name: "Clouds."}, QUESTION)
    assert messages[1].reasoning == "Clouds."


@pytest.mark.parametrize(
    "answer",
    [
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": None, "refusal": "No."},
    ],
)
def test_an_earlier_refusal_stays_in_the_conversation(answer: dict[str, Any]) -> None:
    assert parsed(QUESTION, answer, QUESTION)[1].parts == (TextPart("No."),)


def test_a_call_without_arguments_has_an_empty_object() -> None:
    call = {**CALL, "function": {"name": "now", "arguments": ""}}
    assert parsed(QUESTION, {**CALLING, "tool_calls": [call]}, RESULT)[1].tool_calls[0].arguments == {}


@pytest.mark.parametrize("detail", ["auto", "low", "high", "original"])
def test_each_detail_reaches_the_pipeline(detail: str) -> None:
    (part,) = parsed({"role": "user", "content": [picture(detail=detail)]})[0].parts
    assert isinstance(part, ImagePart)
    assert part.detail == detail


def test_a_result_belongs_to_an_earlier_call() -> None:
    nowhere = "'messages[1].tool_call_id' names no tool call of an earlier answer."
    assert refused(QUESTION, RESULT) == ("messages[1].tool_call_id", nowhere)
    assert refused(QUESTION, RESULT, CALLING, RESULT) == ("messages[1].tool_call_id", nowhere)
    assert refused(QUESTION, CALLING, {"role": "tool", "content": "x"}) == (
        "messages[2].tool_call_id",
        "'messages[2].tool_call_id' is required.",
    )


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (None, {}),
        ("  ", {}),
        ("null", {}),
        ({"city": "Ulm"}, {"city": "Ulm"}),
        ('{"city": "Ul', {"city": "Ul"}),
        ('{"city": "Ulm", "day', {"city": "Ulm"}),
        ("{", {}),
        ("[1]", {"arguments": [1]}),
        ([1], {"arguments": [1]}),
        ("[]", {}),
        ([], {}),
        (5, {"arguments": 5}),
        (False, {"arguments": False}),
        ("rain?", {"arguments": "rain?"}),
        ('{"a": NaN}', {"arguments": '{"a": NaN}'}),
    ],
)
def test_arguments_that_are_cut_off_or_no_json_do_not_end_a_conversation(arguments: Any, read: Any) -> None:
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    assert parsed(QUESTION, {**CALLING, "tool_calls": [call]}, RESULT)[1].tool_calls[0].arguments == read


@pytest.mark.parametrize(("called", "answered"), [({"id": ""}, ""), ({"id": None}, None), ({}, "")])
def test_a_call_and_its_result_may_both_have_an_empty_id(called: dict[str, Any], answered: str | None) -> None:
    """Gemini's API and local servers send such calls."""
    call = {"function": CALL["function"], **called}
    turns = parsed(QUESTION, {**CALLING, "tool_calls": [call]}, {**RESULT, "tool_call_id": answered})
    assert turns[1].tool_calls[0].id == turns[2].tool_call_id == ""
    assert refused(QUESTION, CALLING, {**RESULT, "tool_call_id": answered})[0] == "messages[2].tool_call_id"


@given(cut=st.integers(0, len(ARGUMENTS)))
def test_arguments_may_be_cut_anywhere(cut: int) -> None:
    call = {**CALL, "function": {"name": "weather", "arguments": ARGUMENTS[:cut]}}
    read = parsed(QUESTION, {**CALLING, "tool_calls": [call]}, RESULT)[1].tool_calls[0].arguments
    assert read.keys() <= {"city", "days", "at"}


def test_arguments_may_be_missing() -> None:
    call = {**CALL, "function": {"name": "weather"}}
    assert parsed(QUESTION, {**CALLING, "tool_calls": [call]}, RESULT)[1].tool_calls[0].arguments == {}


@pytest.mark.parametrize(
    ("answer", "param", "message"),
    [
        (
            {"tool_calls": [{"id": "c", "type": "custom", "custom": {}}]},
            "messages[1].tool_calls[0].type",
            "'messages[1].tool_calls[0].type' must be 'function', not 'custom'. 2 more fields are invalid.",
        ),
        (
            {"content": "x", "function_call": {"name": "f"}},
            "messages[1].function_call",
            "'messages[1].function_call' is not supported; leave it out.",
        ),
    ],
)
def test_what_an_answer_may_not_be_is_named(answer: dict[str, Any], param: str, message: str) -> None:
    assert refused(QUESTION, {"role": "assistant", **answer}, QUESTION) == (param, message)
