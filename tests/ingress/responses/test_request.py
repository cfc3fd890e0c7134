"""Requests of /v1/responses, and what the pipeline gets."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.contracts import (
    ChatRequest,
    Constraint,
    ImagePart,
    Message,
    Sampling,
    TextPart,
    Thinking,
    Tool,
    ToolCall,
    ToolUse,
)
from serve_app.errors import InvalidRequest
from serve_app.ingress.responses.request import ResponseBody, response_request
from tests.ingress.client import PICTURE_URL

CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Ulm"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
CALLED = ToolCall("c1", "weather", {"city": "Ulm"})
QUESTION = Message("user", (TextPart("Weather?"),))


def parsed(input: Any, **fields: Any) -> ChatRequest:
    return response_request(ResponseBody.read({"input": input, **fields}), id="one", deadline_s=9.0)


def refused(body: dict[str, Any]) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as raised:
        response_request(ResponseBody.read(dict(body)), id="one", deadline_s=9.0)
    return raised.value.param, raised.value.message


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_a_text_is_the_users_message() -> None:
    assert parsed("Weather?") == ChatRequest("one", (QUESTION,), Sampling(), 9.0, False)


def test_instructions_are_a_system_message_put_first() -> None:
    system = Message("system", (TextPart("Be brief."),))
    assert parsed("Weather?", instructions="Be brief.").messages == (system, QUESTION)


@pytest.mark.parametrize(
    ("input", "params"),
    [
        ("Weather?", ["instructions", "input"]),
        ([{"role": "user", "content": "Weather?"}, CALL, RESULT], ["instructions", "input[0]", "input[1]", "input[2]"]),
        (
            [
                {"role": "user", "content": "?"},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {"role": "assistant", "content": "I look."},
                CALL,
                RESULT,
            ],
            ["instructions", "input[0]", "input[2]", "input[4]"],
        ),
    ],
)
def test_errors_name_the_fields_that_the_caller_sent(input: Any, params: list[str]) -> None:
    """They named `messages[2]` and `chat_template_kwargs`, which no caller of /v1/responses sends."""
    request = parsed(input, instructions="Be brief.", reasoning={"effort": "none"})
    assert [message.param for message in request.messages] == params
    assert (request.param, request.thinking.param) == ("input", "reasoning.effort")


def test_messages_of_every_role_and_part_keep_their_order() -> None:
    messages = parsed(
        [
            {"type": "message", "role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": PICTURE_URL, "detail": "original"},
                    {"type": "input_text", "text": "What?"},
                ],
            },
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "A cat.", "annotations": [], "logprobs": []}],
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]},
            {"role": "user", "content": "Why?"},
        ]
    ).messages
    assert messages == (
        Message("system", (TextPart("Be brief."),)),
        Message("user", (ImagePart(PICTURE_URL, "input[1].content[0].image_url", "original"), TextPart("What?"))),
        Message("assistant", (TextPart("A cat."),)),
        Message("assistant", (TextPart("No more."),)),
        Message("user", (TextPart("Why?"),)),
    )


def test_calls_belong_to_the_answer_before_them_and_reasoning_to_the_one_after() -> None:
    second = {**CALL, "call_id": "c2"}
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }
    message = {"role": "assistant", "content": "I look."}
    messages = parsed(
        [*user({"type": "input_text", "text": "Weather?"}), reasoning, message, CALL, second, RESULT]
    ).messages
    assert messages == (
        QUESTION,
        Message("assistant", (TextPart("I look."),), "Hm.", (CALLED, ToolCall("c2", "weather", {"city": "Ulm"}))),
        Message("tool", (TextPart("rain"),), tool_call_id="c1"),
    )


def test_a_call_may_be_an_answer_of_its_own() -> None:
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": None}
    messages = parsed([{"role": "user", "content": "Weather?"}, reasoning, CALL, RESULT]).messages
    assert messages[1] == Message("assistant", (), "Hm.", (CALLED,))


def test_references_to_reasoning_are_left_out() -> None:
    """AI SDK refers to the reasoning of earlier responses by its id."""
    asked = [{"role": "user", "content": "Weather?"}]
    reference = {"type": "item_reference", "id": "rs_1"}
    assert parsed([*asked, reference, CALL, RESULT]).messages == parsed([*asked, CALL, RESULT]).messages


def test_a_tools_result_may_be_a_picture() -> None:
    result = {**RESULT, "output": [{"type": "input_image", "image_url": PICTURE_URL}]}
    messages = parsed([{"role": "user", "content": "?"}, CALL, result]).messages
    assert messages[2].parts == (ImagePart(PICTURE_URL, "input[2].output[0].image_url"),)


def test_functions_are_flat_and_their_choice_too() -> None:
    flat = {"type": "function", "name": "f", "description": "F.", "parameters": {"type": "object"}, "strict": True}
    deep = {"name": "f", "description": "F.", "parameters": {"type": "object"}}
    tool = Tool("f", {"type": "function", "function": deep}, strict=True)
    assert parsed("x", tools=[flat]).tools == ToolUse((tool,))
    assert parsed("x", tools=[flat], tool_choice="none").tools is None
    named = parsed("x", tools=[flat], tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False)
    assert named.tools == ToolUse((tool,), required=True, only="f", parallel=False)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({}, None),
        ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, None),
        ({"text": {"format": {"type": "json_object"}}}, Constraint("json_object", param="text.format")),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}}},
            Constraint("json_schema", '{"a":1}', "text.format.schema"),
        ),
    ],
)
def test_the_form_of_the_text_reaches_the_pipeline(fields: dict[str, Any], constraint: Constraint | None) -> None:
    assert parsed("x", **fields).constraint == constraint


def test_every_other_field_reaches_the_pipeline() -> None:
    request = parsed(
        "x", max_output_tokens=9, temperature=0.5, top_p=0.25, seed=3, stop="END", stream=True,
        reasoning={"effort": "low", "summary": "auto"}, top_logprobs=2,
    )  # fmt: skip
    assert request.sampling == Sampling(9, 0.5, 0.25, stop=("END",), seed=3, logprobs=2)
    assert request.thinking == Thinking(True, 1024)
    assert request.stream
    assert parsed("x", include=["message.output_text.logprobs"]).sampling.logprobs == 0
    assert parsed("x", include=["reasoning.encrypted_content"]).sampling.logprobs is None


def test_ignored_fields_change_nothing() -> None:
    hints = {
        "store": True, "truncation": "auto", "service_tier": "auto", "metadata": {"a": "b"}, "user": "u",
        "max_tool_calls": 3, "background": False, "previous_response_id": None, "prompt_cache_key": "k",
    }  # fmt: skip
    assert parsed("x", **hints) == parsed("x")


@pytest.mark.parametrize("name", ResponseBody.unsupported)
def test_a_field_that_needs_a_store_or_openais_platform_is_refused_by_name(name: str) -> None:
    param, message = refused({"input": "x", name: "something"})
    assert param == name
    assert message.startswith(f"'{name}' is not supported by this service")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "'input' is required."),
        ({"input": 5}, "input", "'input' must be a string or a list of items, not 5."),
        ({"input": []}, "input", "'input' must have 1 or more entries, not 0."),
        ({"input": ["x"]}, "input[0]", "'input[0]' must be an object."),
        (
            {"input": [{"type": "item_reference", "id": "msg_1"}]},
            "input[0].id",
            "'input[0]' refers to 'msg_1', which is not known here: answers are kept for a while only. Send the item "
            "itself; AI SDK does with the provider option 'store': false.",
        ),
        (
            {"input": user({"type": "input_file", "file_id": "f"})},
            "input[0].content[0].file_id",
            "'input[0].content[0].file_id' is not supported: this service keeps no files. "
            "Send the file as 'file_data'.",
        ),
        (
            {"input": user({"type": "input_image", "file_id": "f", "detail": "auto"})},
            "input[0].content[0].file_id",
            "'input[0].content[0].file_id' is not supported; leave it out. 1 more field is invalid.",
        ),
        (
            {"input": [{"type": "reasoning", "summary": []}]},
            "input",
            "'input' has reasoning only; there is nothing to answer.",
        ),
        ({"input": [RESULT]}, "input[0].call_id", "'input[0].call_id' names no tool call of an earlier answer."),
        (
            {"input": "x", "tools": [{"type": "web_search"}]},
            "tools[0].type",
            "'tools[0].type' must be 'function', not 'web_search'. 1 more field is invalid.",
        ),
        (
            {"input": "x", "tool_choice": {"type": "function", "name": "f"}},
            "tool_choice",
            "'tool_choice' requires a call, but there are no 'tools'.",
        ),
        (
            {"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            "'text.format.schema' is required.",
        ),
        (
            {"input": "x", "stream_options": {"every": 3}},
            "stream_options.every",
            "'stream_options.every' is not a field of this request.",
        ),
        ({"input": "x", "metadata": {"a": 1}}, "metadata.a", "'metadata.a' must be a valid string, not 1."),
        ({"input": "x", "messages": []}, "messages", "'messages' is not a field of this request."),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_a_sentence(body: dict[str, Any], param: str, message: str) -> None:
    assert refused(body) == (param, message)
