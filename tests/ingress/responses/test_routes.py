"""/v1/responses: output items, and the events of a stream."""

from __future__ import annotations

import json
from functools import reduce
from operator import or_
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serve_app.contracts import Box, Boxed, Delta, PictureSeen, TokenLogprob, ToolCallDelta
from serve_app.errors import EngineFailed, ImageRejected, Overloaded, RateLimited, ServiceError
from serve_app.ingress.responses.events import STREAM_EVENTS
from serve_app.ingress.responses.response import ResponseReply
from tests.fakes import FakeAnswer, FakeMeter
from tests.ingress.client import MODEL, MakeClient, events_of

URL = "/v1/responses"
OURS: TypeAdapter[Any] = TypeAdapter(ResponseReply)
OUR_EVENTS: TypeAdapter[Any] = TypeAdapter(reduce(or_, STREAM_EVENTS))
THEIRS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
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


async def complete(make_client: MakeClient, answer: FakeAnswer, **fields: Any) -> dict[str, Any]:
    response = await make_client(answer).post(URL, json={"input": "?", **fields})
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    OURS.validate_python(reply, strict=True)
    Response.model_validate(reply, strict=False)
    return reply


async def streamed(make_client: MakeClient, answer: FakeAnswer, **fields: Any) -> list[dict[str, Any]]:
    response = await make_client(answer).post(URL, json={"input": "?", "stream": True, **fields})
    assert response.status_code == 200, response.text
    events = [json.loads(line) for line in events_of(response)]
    for event in events:
        OUR_EVENTS.validate_python(event, strict=True)
        THEIRS.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert f"event: {events[0]['type']}\ndata: " in response.text
    return events


async def test_a_non_streaming_response_is_openais(make_client: MakeClient) -> None:
    reply = await complete(make_client, FakeAnswer("Two ", "cats"), model=MODEL, metadata={"job": "7"}, temperature=0)
    assert reply.pop("timings")["prefill_ms"] == 4.0
    assert reply == {
        "id": "resp_id2",
        "object": "response",
        "created_at": 1_700_000_000,
        "completed_at": 1_700_000_000,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {"job": "7"},
        "model": MODEL,
        "output": [
            {
                "id": "msg_id3",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Two cats", "annotations": [], "logprobs": []}],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 40,
            "input_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 0,
                "image_tokens": 30,
                "text_tokens": 10,
            },
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 42,
        },
        "user": None,
    }


async def test_the_requests_settings_are_echoed(make_client: MakeClient) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    choice = {"type": "function", "name": "f"}
    reply = await complete(
        make_client, FakeAnswer("x"), tools=[tool], tool_choice=choice, reasoning={"effort": "low"}, user="u"
    )
    assert (reply["tools"], reply["tool_choice"], reply["reasoning"]["effort"]) == ([tool], choice, "low")
    form = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}}
    reply = await complete(make_client, FakeAnswer("{}"), text=form, instructions="Brief.", max_output_tokens=9)
    assert (reply["text"], reply["instructions"], reply["max_output_tokens"]) == (form, "Brief.", 9)


async def test_reasoning_text_and_calls_are_items_in_their_order(make_client: MakeClient) -> None:
    reasoning, message, first, second = (await complete(make_client, FakeAnswer(*EVERYTHING)))["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Rain is wet."}]
    assert (reasoning["type"], reasoning["summary"]) == ("reasoning", [])
    assert message["content"][0]["text"] == "I look."
    assert (first["type"], first["name"], first["arguments"]) == ("function_call", "weather", '{"city": "Ulm"}')
    assert (second["name"], second["arguments"]) == ("time", "{}")
    assert first["call_id"] != second["call_id"]
    assert [item["id"].split("_")[0] for item in (reasoning, message, first)] == ["rs", "msg", "fc"]


async def test_the_events_of_a_text_are_in_openais_order(make_client: MakeClient) -> None:
    events = await streamed(make_client, FakeAnswer("Two ", "cats"))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[2]["item"]["content"] == []
    assert [event["delta"] for event in events[4:6]] == ["Two ", "cats"]
    assert events[6]["text"] == events[7]["part"]["text"] == "Two cats"
    assert events[8]["item"] == events[9]["response"]["output"][0]
    assert events[9]["response"]["usage"]["output_tokens"] == 2


async def test_the_events_of_reasoning_and_calls_are_in_openais_order(make_client: MakeClient) -> None:
    events = await streamed(make_client, FakeAnswer(*EVERYTHING, reason="tool_calls"))
    names = [event["type"].removeprefix("response.") for event in events]
    assert names == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [event["output_index"] for event in events if event["type"].endswith("item.added")] == [0, 1, 2, 3]
    assert events[6]["text"] == "Rain is wet."
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert done[2]["arguments"] == '{"city": "Ulm"}'


@pytest.mark.parametrize("summary", ["auto", "concise", "detailed"])
async def test_a_requested_summary_is_the_reasoning(make_client: MakeClient, summary: str) -> None:
    """AI SDK and OpenAI's own examples read the reasoning from `summary` only."""
    fields = {"reasoning": {"effort": "low", "summary": summary}}
    events = await streamed(make_client, FakeAnswer(*EVERYTHING), **fields)
    names = [event["type"].removeprefix("response.") for event in events]
    assert names[2:9] == [
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done",
        "output_item.done",
    ]  # fmt: skip
    assert {event["summary_index"] for event in events[3:8]} == {0}
    assert events[6]["text"] == events[7]["part"]["text"] == "Rain is wet."
    item = events[8]["item"]
    assert (item["summary"], item["content"]) == ([{"type": "summary_text", "text": "Rain is wet."}], [])
    reply = await complete(make_client, FakeAnswer(*EVERYTHING), **fields)
    assert reply["output"][0]["summary"] == item["summary"]
    assert reply["reasoning"] == {"effort": "low", "summary": summary}


async def test_a_stream_ends_with_the_non_streaming_response(make_client: MakeClient) -> None:
    answer = FakeAnswer(*EVERYTHING, pictures=(PictureSeen((9, 9), (28, 28), 1),))
    last = (await streamed(make_client, answer))[-1]["response"]
    reply = await complete(make_client, answer)
    for each in (last, reply):
        del each["timings"]
        for item in each["output"]:
            del item["id"]
            item.pop("call_id", None)
    assert last == reply


@pytest.mark.parametrize("deltas", [(), ("Two",), (ToolCallDelta(0, "f", "{", 1),), (Delta("Hm", 1, "reasoning"),)])
async def test_an_answer_that_reaches_its_limit_is_incomplete(make_client: MakeClient, deltas: tuple[Any, ...]) -> None:
    reply = await complete(make_client, FakeAnswer(*deltas, reason="length"), max_output_tokens=1)
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (reply["output"][-1]["status"], reply["completed_at"]) == ("incomplete", None)
    last = (await streamed(make_client, FakeAnswer(*deltas, reason="length")))[-1]
    assert last["type"] == "response.incomplete"


async def test_an_answer_without_text_is_an_empty_message(make_client: MakeClient) -> None:
    (item,) = (await complete(make_client, FakeAnswer()))["output"]
    assert item["content"][0]["text"] == ""
    assert (await streamed(make_client, FakeAnswer()))[-1]["type"] == "response.completed"


async def test_logprobs_are_with_their_text(make_client: MakeClient) -> None:
    likely = (TokenLogprob(7, "两".encode()[:1], -0.5, ((7, "两".encode()[:1], -0.5),)), TokenLogprob(8, b"", -1.0))
    answer = FakeAnswer(Delta("两", 2, "text", likely))
    expected = [
        {
            "token": "\\xe4", "logprob": -0.5, "bytes": [0xE4],
            "top_logprobs": [{"token": "\\xe4", "logprob": -0.5, "bytes": [0xE4]}],
        },
        {"token": "token_id:8", "logprob": -1.0, "bytes": [], "top_logprobs": []},
    ]  # fmt: skip
    reply = await complete(make_client, answer, top_logprobs=1)
    assert reply["output"][0]["content"][0]["logprobs"] == expected
    events = await streamed(make_client, answer, include=["message.output_text.logprobs"])
    assert [event["logprobs"] for event in events if "logprobs" in event] == [expected, expected]


async def test_boxes_and_pictures_are_in_the_response(make_client: MakeClient) -> None:
    answer = FakeAnswer(
        "There.",
        pictures=(PictureSeen((4032, 3024), (1120, 840), 1200),),
        boxed=(Boxed("[[1,2,3,4]]", (Box((1, 2, 3, 4), (4, 6, 12, 12), 0),)),),
    )
    for reply in (await complete(make_client, answer), (await streamed(make_client, answer))[-1]["response"]):
        assert reply["images"][0]["scaled"]
        assert reply["boxes"][0]["boxes"] == [{"box_1000": [1, 2, 3, 4], "box_pixels": [4, 6, 12, 12], "image": 0}]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_early_error_keeps_its_status(make_client: MakeClient, stream: bool) -> None:
    answer = FakeAnswer("x", error=ImageRejected("Not a picture.", "input[0].content[0].image_url"))
    response = await make_client(answer).post(URL, json={"input": "?", "stream": stream})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[0].content[0].image_url"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded("No memory left."), "server_error"),
        (EngineFailed("No memory left."), "server_error"),
        (RateLimited("No memory left."), "rate_limit_exceeded"),
        (ImageRejected("No memory left."), "invalid_image"),
    ],
)
async def test_a_late_error_is_an_error_event_and_a_failed_response(
    make_client: MakeClient, error: ServiceError, code: str
) -> None:
    meter = FakeMeter()
    answer = FakeAnswer("Two ", "cats", error=error, fail_after=2)
    response = await make_client(answer, meter=meter).post(URL, json={"input": "?", "stream": True})
    events = [json.loads(line) for line in events_of(response)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    error_event, failed = events[-2:]
    assert (error_event["type"], error_event["code"], error_event["message"]) == (
        "error",
        error.code,
        "No memory left.",
    )
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": code, "message": "No memory left."}
    assert failed["response"]["output"][0]["content"][0]["text"] == "Two "
    assert meter.counts["glm_rejections_total", error.code] == 1


async def test_an_answers_items_can_be_sent_back_as_they_came(make_client: MakeClient) -> None:
    answer = FakeAnswer(*EVERYTHING)
    items = (await complete(make_client, answer))["output"]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "x"}
        for item in items
        if item["type"] == "function_call"
    ]
    await complete(make_client, answer, input=[{"role": "user", "content": "?"}, *items, *results])
    earlier = answer.requests[-1].messages[1]
    assert (earlier.reasoning, [call.name for call in earlier.tool_calls]) == ("Rain is wet.", ["weather", "time"])


async def test_another_model_is_a_404(make_client: MakeClient) -> None:
    response = await make_client().post(URL, json={"input": "x", "model": "gpt-4o"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("user", "returned"), [("ann", "ann"), (None, None), (0, None), ({"id": "ann"}, None)])
async def test_a_user_that_is_no_text_is_not_returned(make_client: MakeClient, user: object, returned: object) -> None:
    """Clients send ids in any form; the response says that it is a text or null."""
    response = await make_client(FakeAnswer("x")).post("/v1/responses", json={"input": "x", "user": user})
    assert (response.status_code, response.json()["user"]) == (200, returned)
