"""/v1/messages: requests of Anthropic's clients, messages, events of a stream, errors in their shape."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from serve_app.access.key_file import LimitEntry, add_key, new_key
from serve_app.contracts import (
    Constraint,
    Delta,
    ImagePart,
    Message,
    Pages,
    PictureSeen,
    TextPart,
    Thinking,
    ToolCall,
    ToolCallDelta,
)
from serve_app.errors import EngineFailed, InvalidRequest, Overloaded, RateLimited, ServiceError
from serve_app.ingress.messages.request import MessagesBody, messages_request
from serve_app.ingress.messages.response import MessageEvent, MessageReply
from tests.fakes import FakeAnswer, FakeTokenize
from tests.ingress.client import MODEL, PNG, MakeClient, events_of

URL = "/v1/messages"
BASE64 = base64.b64encode(PNG).decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK"}
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ulm"}}
EVERYTHING = (
    Delta("Rain ", 2, "reasoning"),
    Delta("is wet.", 2, "reasoning"),
    "I ",
    "look.",
    ToolCallDelta(0, "weather", "", 3),
    ToolCallDelta(0, None, '{"city": ', 2),
    ToolCallDelta(0, None, '"Ulm"}', 2),
    ToolCallDelta(1, "time", "{}", 4),
)


def asking(content: Any = "?", **fields: Any) -> dict[str, Any]:
    return {"max_tokens": 9, "messages": [{"role": "user", "content": content}], **fields}


def parsed(body: dict[str, Any]) -> Any:
    return messages_request(MessagesBody.read(body), id="one", deadline_s=9.0)


def refused(body: dict[str, Any]) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as error:
        parsed(body)
    return error.value.param, error.value.message


# -- requests -------------------------------------------------------------------------------------


def test_texts_pictures_and_documents_are_parts_that_name_their_field() -> None:
    document = {"type": "document", "source": PDF, "title": "Invoice", "context": "Of May", "pages": "2-"}
    web = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "12 boxes"}}
    at = "messages[0].content"
    request = parsed(asking([IMAGE, web, document, plain, {"type": "text", "text": "?"}], system="Be brief."))
    assert request.messages == (
        Message("system", (TextPart("Be brief."),)),
        Message(
            "user",
            (
                ImagePart(f"data:;base64,{BASE64}", f"{at}[0].source"),
                ImagePart("https://example.com/a.png", f"{at}[1].source"),
                TextPart("Invoice\n"),
                TextPart("Of May\n"),
                ImagePart(
                    "data:;base64,JVBERi0xLjQK",
                    f"{at}[2].source",
                    pages=Pages(((2, None),), f"{at}[2].pages"),
                    noun="File",
                ),
                TextPart("12 boxes"),
                TextPart("?"),
            ),
        ),
    )


def test_calls_results_and_reasoning_of_a_conversation_are_messages() -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Rain"}, IMAGE]}
    failed = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no network", "is_error": True}
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "xx"}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [thought, hidden, {"type": "text", "text": "I look."}, CALL]},
        {"role": "user", "content": [result, failed, {"type": "text", "text": "And now?"}]},
    ]
    _, answer, first, second, question = parsed({"messages": messages, "max_tokens": 9}).messages
    calls = (ToolCall("toolu_1", "weather", {"city": "Ulm"}),)
    assert answer == Message("assistant", (TextPart("I look."),), "Hm.", calls)
    picture = ImagePart(f"data:;base64,{BASE64}", "messages[2].content[0].content[1].source")
    assert first == Message("tool", (TextPart("Rain"), picture), tool_call_id="toolu_1")
    assert second == Message("tool", (TextPart("Error: "), TextPart("no network")), tool_call_id="toolu_1")
    assert question == Message("user", (TextPart("And now?"),))


def test_settings_are_those_of_the_other_apis() -> None:
    request = parsed(
        asking(
            temperature=0.5,
            top_p=0.25,
            top_k=5,
            stop_sequences=["END"],
            stream=True,
            tools=[{**WEATHER, "strict": True, "cache_control": {"type": "ephemeral"}}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            thinking={"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
            metadata={"user_id": "u"},
            service_tier="auto",
        )
    )
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 5)
    assert (sampling.max_tokens, sampling.stop, request.stream) == (9, ("END",), True)
    assert request.thinking == Thinking(True, 1024)
    assert (request.tools.required, request.tools.parallel, request.tools.only) == (True, False, None)
    (tool,) = request.tools.tools
    assert (tool.name, tool.strict, tool.parameters) == ("weather", True, WEATHER["input_schema"])


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (None, (False, None)),
        ({"type": "auto"}, (False, None)),
        ({"type": "any"}, (True, None)),
        ({"type": "tool", "name": "weather"}, (True, "weather")),
    ],
)
def test_a_tool_choice_is_that_of_the_other_apis(choice: Any, found: tuple[bool, str | None]) -> None:
    tools = parsed(asking(tools=[WEATHER], tool_choice=choice)).tools
    assert (tools.required, tools.only) == found
    assert parsed(asking(tools=[WEATHER], tool_choice={"type": "none"})).tools is None


def test_effort_limits_reasoning_that_is_enabled_and_a_format_constrains_the_answer() -> None:
    schema = {"type": "object", "properties": {}}
    config = {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    request = parsed(asking(output_config=config))
    assert request.thinking == Thinking()
    assert request.constraint == Constraint(
        "json_schema", json.dumps(schema, separators=(",", ":")), "output_config.format.schema"
    )
    enabled = parsed(asking(output_config=config, thinking={"type": "enabled"}))
    assert enabled.thinking == Thinking(True, 1024)
    given = parsed(asking(output_config=config, thinking={"type": "enabled", "budget_tokens": 2000}))
    assert given.thinking == Thinking(True, 2000)


def test_a_last_message_of_the_assistant_is_continued() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "The number is"}]
    assert parsed({"messages": messages}).continue_last


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (
            asking([{"type": "image", "source": {"type": "file", "file_id": "f"}}]),
            "messages[0].content[0].source.file_id",
            "is not supported: this service keeps no files. Send the file as base64.",
        ),
        (
            asking([{"type": "document", "source": PDF, "citations": {"enabled": True}}]),
            "messages[0].content[0].citations.enabled",
            "must be False",
        ),
        (
            asking([{"type": "image", "source": {"type": "base64"}}]),
            "messages[0].content[0].source.data",
            "is required.",
        ),
        (asking([{"type": "search_result"}]), "messages[0].content[0].type", "is 'search_result'; supported here:"),
        (asking([CALL]), "messages[0].content[0].type", "is 'tool_use'; supported here: 'text', 'image'"),
        (
            asking([{"type": "tool_result", "tool_use_id": "x"}]),
            "messages[0].content[0].tool_use_id",
            "names no tool call of an earlier answer.",
        ),
        (asking(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "tools[0].type", "must be 'custom'"),
        (asking(tool_choice={"type": "tool"}), "tool_choice.name", "is required."),
        (asking(mcp_servers=[{}]), "mcp_servers", "is not supported by this service"),
        (asking(stop_sequence=["x"]), "stop_sequence", "The nearest field is 'stop_sequences'."),
        (asking(top_k=2**31), "top_k", "must be less than or equal to 2147483647"),
        ({"max_tokens": 9}, "messages", "is required."),
    ],
)
def test_a_wrong_field_is_refused_by_name(body: dict[str, Any], param: str, message: str) -> None:
    found, sentence = refused(body)
    assert found == param
    assert message in sentence


# -- responses ------------------------------------------------------------------------------------


async def test_a_message_has_reasoning_text_and_calls_as_blocks(make_client: MakeClient) -> None:
    seen = PictureSeen((4032, 3024), (1120, 840), 1200)
    answer = FakeAnswer(*EVERYTHING, reason="tool_calls", pictures=(seen,))
    reply = (await make_client(answer).post(URL, json=asking([IMAGE]))).json()
    TypeAdapter(MessageReply).validate_python(reply, strict=True)
    assert reply["images"][0]["seen_size"] == [1120, 840]
    assert reply.pop("timings")["prefill_ms"] == 4.0
    assert reply["content"] == [
        {"type": "thinking", "thinking": "Rain is wet.", "signature": "unsigned"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_id3", "name": "weather", "input": {"city": "Ulm"}},
        {"type": "tool_use", "id": "toolu_id4", "name": "time", "input": {}},
    ]
    assert (reply["id"], reply["type"], reply["role"], reply["model"]) == ("msg_id2", "message", "assistant", MODEL)
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("tool_use", None)
    assert reply["usage"] == {
        "input_tokens": 40,
        "output_tokens": 17,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 4},
        "service_tier": "standard",
    }


async def test_an_argument_may_be_an_integer_of_more_than_64_bits(make_client: MakeClient) -> None:
    """The response was a 500, after the answer had been generated."""
    answer = FakeAnswer(ToolCallDelta(0, "weather", '{"number":123456789012345678901}', 4), reason="tool_calls")
    response = await make_client(answer).post(URL, json=asking())
    assert response.status_code == 200
    assert response.json()["content"][0]["input"] == {"number": 123456789012345678901}


@pytest.mark.parametrize(
    ("answer", "reason", "sequence"),
    [
        (FakeAnswer("x"), "end_turn", None),
        (FakeAnswer("x", reason="length"), "max_tokens", None),
        (FakeAnswer("x", stop="END"), "stop_sequence", "END"),
        (FakeAnswer(), "end_turn", None),
    ],
)
async def test_the_reason_of_the_end_is_named_streaming_or_not(
    make_client: MakeClient, answer: FakeAnswer, reason: str, sequence: str | None
) -> None:
    reply = (await make_client(answer).post(URL, json=asking())).json()
    assert (reply["stop_reason"], reply["stop_sequence"]) == (reason, sequence)
    response = await make_client(answer).post(URL, json=asking(stream=True))
    *_, last, stop = [json.loads(line) for line in events_of(response)]
    assert last["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
    assert stop == {"type": "message_stop"}


async def test_a_stream_has_each_block_from_its_start_to_its_stop(make_client: MakeClient) -> None:
    answer = FakeAnswer(*EVERYTHING, reason="tool_calls")
    response = await make_client(answer).post(URL, json=asking(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line) for line in events_of(response)]
    for event in events:
        TypeAdapter(MessageEvent).validate_python(event)
    first, ping, *blocks, last, stop = events
    assert first["message"]["content"] == []
    assert first["message"]["usage"]["input_tokens"] == 40
    assert ping == {"type": "ping"}
    assert last["usage"]["output_tokens"] == 17
    assert stop == {"type": "message_stop"}
    assert [(event["type"].removeprefix("content_block_"), event["index"]) for event in blocks] == [
        ("start", 0), ("delta", 0), ("delta", 0), ("delta", 0), ("stop", 0),
        ("start", 1), ("delta", 1), ("delta", 1), ("stop", 1),
        ("start", 2), ("delta", 2), ("delta", 2), ("stop", 2),
        ("start", 3), ("delta", 3), ("stop", 3),
    ]  # fmt: skip
    starts = [event["content_block"] for event in blocks if event["type"] == "content_block_start"]
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "toolu_id3", "name": "weather", "input": {}},
        {"type": "tool_use", "id": "toolu_id4", "name": "time", "input": {}},
    ]
    assert blocks[3]["delta"] == {"type": "signature_delta", "signature": "unsigned"}
    arguments = [
        each["delta"]["partial_json"] for each in blocks if each.get("delta", {}).get("type") == "input_json_delta"
    ]
    assert "".join(arguments) == '{"city": "Ulm"}{}'


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("'x' is wrong.", "x"), 400, "invalid_request_error"),
        (RateLimited("Too many requests."), 429, "rate_limit_error"),
        (Overloaded("No memory left."), 503, "overloaded_error"),
        (EngineFailed("The engine failed."), 500, "api_error"),
    ],
)
async def test_an_error_has_anthropics_shape_and_ours(
    make_client: MakeClient, error: ServiceError, status: int, kind: str
) -> None:
    response = await make_client(FakeAnswer(error=error)).post(URL, json=asking())
    assert response.status_code == status
    reply = response.json()
    assert (reply["type"], reply["error"]["type"], reply["error"]["message"]) == ("error", kind, error.message)
    assert reply["error"]["code"] == error.code
    assert reply["request_id"] == response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (status in (429, 503))


async def test_a_wrong_model_and_a_wrong_body_have_anthropics_shape(make_client: MakeClient) -> None:
    client = make_client()
    for body, status, kind in (
        (asking(model="claude"), 404, "not_found_error"),
        (asking(max_token=1), 400, "invalid_request_error"),
    ):
        response = await client.post(URL, json=body)
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    response = await client.post(URL, content=b"{")
    assert response.json()["type"] == "error"


async def test_a_late_failure_is_the_last_event(make_client: MakeClient) -> None:
    answer = FakeAnswer("Two ", error=Overloaded("No memory left."), fail_after=2)
    response = await make_client(answer).post(URL, json=asking(stream=True))
    last = json.loads(events_of(response)[-1])
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")


@pytest.mark.usefixtures("within_a_window")
@pytest.mark.parametrize("path", [URL, f"{URL}/", "/v1//messages/count_tokens"])
async def test_a_refusal_before_the_route_has_anthropics_shape(
    make_client: MakeClient, tmp_path: Path, path: str
) -> None:
    file = tmp_path / "keys.json"
    key, entry = new_key("shop", limits=LimitEntry(requests_per_second=1 / 60))
    add_key(file, entry)
    client, keyed = (
        make_client(access={"keys_file": str(file)}, settings={"max_body_bytes": 10_000}),
        {"x-api-key": key},
    )
    responses = [
        (await client.post(path, json=asking()), 401, "authentication_error"),
        (await client.post(path, content=b"{" * 20_000, headers=keyed), 413, "request_too_large"),
        (await client.post(path, json=asking(), headers=keyed), 429, "rate_limit_error"),
        (await client.get(path, headers=keyed), 405, "invalid_request_error"),
    ]
    for response, status, kind in responses:
        reply = response.json()
        assert (response.status_code, reply["type"], reply["error"]["type"]) == (status, "error", kind)
        assert reply["request_id"] == response.headers["x-request-id"]
    assert set((await client.post("/v1/chat/completions", json={})).json()) == {"error"}


# -- tokens ---------------------------------------------------------------------------------------


async def test_tokens_are_counted_with_the_same_body(make_client: MakeClient) -> None:
    tokenize = FakeTokenize(1, 2, 3)
    body = asking([IMAGE], tools=[WEATHER], system="Be brief.")
    del body["max_tokens"]
    response = await make_client(tokenize=tokenize).post(f"{URL}/count_tokens", json=body)
    assert (response.status_code, response.json()) == (200, {"input_tokens": 3})
    (request,) = tokenize.requests
    assert request.messages == parsed(body).messages
    refused = await make_client().post(f"{URL}/count_tokens", json={"messages": []})
    assert (refused.status_code, refused.json()["type"]) == (400, "error")


async def test_the_headers_of_anthropics_clients_are_accepted(make_client: MakeClient) -> None:
    headers = {"x-api-key": "none", "anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    response = await make_client(FakeAnswer("x")).post(f"{URL}?beta=true", json=asking(), headers=headers)
    assert response.status_code == 200
