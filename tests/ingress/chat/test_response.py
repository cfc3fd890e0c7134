"""A chat response besides its text: reasoning, tool calls, log probabilities, boxes and pictures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from serve_app.contracts import Box, Boxed, Delta, PictureSeen, TokenLogprob, ToolCallDelta
from serve_app.ingress.chat.response import ChatCompletion, ChatCompletionChunk
from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, chat, events_of

URL = "/v1/chat/completions"
CALLS = (
    ToolCallDelta(0, "weather", "", 3),
    ToolCallDelta(0, None, '{"city": ', 2),
    ToolCallDelta(0, None, '"杭州"}', 2),
    ToolCallDelta(1, "time", "{}", 4),
)
NI = "你".encode()
LIKELY = (
    TokenLogprob(7, NI[:2], -0.5, ((7, NI[:2], -0.5), (8, b"Hi", -1.5))),
    TokenLogprob(9, NI[2:], 0.0, ((9, NI[2:], 0.0), (151336, b"", float("-inf")))),
)
SEEN = (PictureSeen((4032, 3024), (1120, 840), 1200), PictureSeen((56, 28), (56, 28), 2))
BOXED = (Boxed("[[100,200,300,400]]", (Box((100, 200, 300, 400), (403, 605, 1210, 1210), 0),)), Boxed("42"))


async def complete(make_client: MakeClient, answer: FakeAnswer, **fields: Any) -> dict[str, Any]:
    response = await make_client(answer).post(URL, json=chat(**fields))
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    TypeAdapter(ChatCompletion).validate_python(reply, strict=True)
    return reply


async def chunks(make_client: MakeClient, answer: FakeAnswer, **fields: Any) -> list[dict[str, Any]]:
    response = await make_client(answer).post(URL, json=chat(stream=True, **fields))
    *lines, done = events_of(response)
    assert done == "[DONE]"
    received = [json.loads(line) for line in lines]
    for chunk in received:
        TypeAdapter(ChatCompletionChunk).validate_python(chunk, strict=True)
    return received


def deltas(received: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in received if chunk["choices"]]


# -- reasoning --------------------------------------------------------------------------------------


async def test_reasoning_has_both_names_and_is_counted(make_client: MakeClient) -> None:
    answer = FakeAnswer(Delta("7 × 13 ", 4, "reasoning"), Delta("= 91.", 3, "reasoning"), "No.")
    reply = await complete(make_client, answer)
    message = reply["choices"][0]["message"]
    assert message["content"] == "No."
    assert message["reasoning_content"] == message["reasoning"] == "7 × 13 = 91."
    assert reply["usage"]["completion_tokens"] == 8
    assert reply["usage"]["completion_tokens_details"] == {"reasoning_tokens": 7}


async def test_reasoning_streams_before_the_text(make_client: MakeClient) -> None:
    answer = FakeAnswer(Delta("Hm.", 2, "reasoning"), "No.")
    received = await chunks(make_client, answer, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert deltas(received) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm.", "reasoning": "Hm."},
        {"content": "No.", "reasoning_content": None},
        {},
    ]
    assert [c["usage"]["completion_tokens_details"]["reasoning_tokens"] for c in received] == [0, 2, 2, 2, 2]


async def test_an_answer_without_reasoning_has_null_for_it(make_client: MakeClient) -> None:
    message = (await complete(make_client, FakeAnswer("No.")))["choices"][0]["message"]
    assert (message["reasoning_content"], message["reasoning"]) == (None, None)


# -- tool calls -------------------------------------------------------------------------------------


async def test_tool_calls_have_ids_and_no_content(make_client: MakeClient) -> None:
    choice = (await complete(make_client, FakeAnswer(*CALLS, reason="tool_calls")))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert first["function"] == {"name": "weather", "arguments": '{"city": "杭州"}'}
    assert second["function"] == {"name": "time", "arguments": "{}"}
    assert first["id"] != second["id"]
    assert all(call["id"].startswith("call_") and call["type"] == "function" for call in (first, second))


async def test_text_beside_calls_is_kept(make_client: MakeClient) -> None:
    message = (await complete(make_client, FakeAnswer("I look.", *CALLS)))["choices"][0]["message"]
    assert message["content"] == "I look."
    assert len(message["tool_calls"]) == 2


async def test_streamed_calls_begin_with_id_and_name(make_client: MakeClient) -> None:
    received = [
        delta["tool_calls"][0]
        for delta in deltas(await chunks(make_client, FakeAnswer(*CALLS)))
        if "tool_calls" in delta
    ]
    first, *_, last = received
    assert first == {
        "index": 0, "id": first["id"], "type": "function", "function": {"name": "weather", "arguments": ""},
    }  # fmt: skip
    assert received[1:3] == [
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"杭州"}'}},
    ]
    assert (last["index"], last["function"]) == (1, {"name": "time", "arguments": "{}"})
    assert last["id"] != first["id"]


async def test_an_answers_calls_can_be_sent_back_as_they_came(make_client: MakeClient) -> None:
    answer = FakeAnswer(Delta("Hm.", 1, "reasoning"), *CALLS, boxed=BOXED)
    message = (await complete(make_client, answer))["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in message["tool_calls"]]
    again = {"messages": [{"role": "user", "content": "?"}, message, *results]}
    assert (await make_client(answer).post(URL, json=again)).status_code == 200
    earlier = answer.requests[-1].messages[1]
    assert (earlier.reasoning, [call.name for call in earlier.tool_calls]) == ("Hm.", ["weather", "time"])


# -- logprobs ---------------------------------------------------------------------------------------


async def test_logprobs_show_parts_of_characters_with_their_exact_bytes(make_client: MakeClient) -> None:
    answer = FakeAnswer(Delta("Hm.", 1, "reasoning", (TokenLogprob(1, b"Hm.", -1.0),)), Delta("你", 2, "text", LIKELY))
    choice = (await complete(make_client, answer, logprobs=True, top_logprobs=2))["choices"][0]
    assert choice["logprobs"] == {
        "content": [
            {
                "token": "\\xe4\\xbd",
                "logprob": -0.5,
                "bytes": [0xE4, 0xBD],
                "top_logprobs": [
                    {"token": "\\xe4\\xbd", "logprob": -0.5, "bytes": [0xE4, 0xBD]},
                    {"token": "Hi", "logprob": -1.5, "bytes": [72, 105]},
                ],
            },
            {
                "token": "\\xa0",
                "logprob": 0.0,
                "bytes": [0xA0],
                "top_logprobs": [
                    {"token": "\\xa0", "logprob": 0.0, "bytes": [0xA0]},
                    {"token": "token_id:151336", "logprob": -9999.0, "bytes": None},
                ],
            },
        ],
        "refusal": None,
    }
    assert b"".join(bytes(each["bytes"]) for each in choice["logprobs"]["content"]).decode() == "你"
    assert answer.requests[0].sampling.logprobs == 2


async def test_streamed_logprobs_are_on_the_chunk_whose_text_they_made(make_client: MakeClient) -> None:
    answer = FakeAnswer(Delta("你", 2, "text", LIKELY), "!")
    received = await chunks(make_client, answer, logprobs=True)
    likely = [chunk["choices"][0]["logprobs"] for chunk in received]
    assert [None if each is None else len(each["content"]) for each in likely] == [None, 2, None, None]
    assert answer.requests[0].sampling.logprobs == 0


@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": False, "top_logprobs": 0}, {"logprobs": None, "top_logprobs": None}]
)
async def test_logprobs_are_returned_only_if_requested(make_client: MakeClient, fields: dict[str, Any]) -> None:
    answer = FakeAnswer("x")
    assert (await complete(make_client, answer, **fields))["choices"][0]["logprobs"] is None
    assert answer.requests[0].sampling.logprobs is None


# -- boxes, pictures, tier --------------------------------------------------------------------------

BOXES = [
    {
        "text": "[[100,200,300,400]]",
        "boxes": [{"box_1000": [100, 200, 300, 400], "box_pixels": [403, 605, 1210, 1210], "image": 0}],
    },
    {"text": "42", "boxes": []},
]
IMAGES = [
    {"original_size": [4032, 3024], "seen_size": [1120, 840], "tokens": 1200, "scaled": True},
    {"original_size": [56, 28], "seen_size": [56, 28], "tokens": 2, "scaled": False},
]


async def test_boxes_and_pictures_are_in_non_streaming_answers(make_client: MakeClient) -> None:
    reply = await complete(make_client, FakeAnswer("There.", pictures=SEEN, boxed=BOXED))
    assert reply["choices"][0]["message"]["boxes"] == BOXES
    assert reply["images"] == IMAGES


async def test_boxes_and_pictures_are_at_the_end_of_streams(make_client: MakeClient) -> None:
    received = await chunks(
        make_client, FakeAnswer("There.", pictures=SEEN, boxed=BOXED), stream_options={"include_usage": True}
    )
    assert deltas(received)[-1] == {"boxes": BOXES}
    assert [chunk.get("images") for chunk in received] == [None, None, IMAGES, IMAGES]


async def test_a_box_in_no_known_picture_has_no_pixels(make_client: MakeClient) -> None:
    boxed = (Boxed("[1,2,3,4]", (Box((1, 2, 3, 4), None, None),)),)
    (received,) = (await complete(make_client, FakeAnswer("x", boxed=boxed)))["choices"][0]["message"]["boxes"]
    assert received["boxes"] == [{"box_1000": [1, 2, 3, 4], "box_pixels": None, "image": None}]


async def test_a_requested_service_tier_is_the_default_one(make_client: MakeClient) -> None:
    assert (await complete(make_client, FakeAnswer("x"), service_tier="priority"))["service_tier"] == "default"
    assert "service_tier" not in await complete(make_client, FakeAnswer("x"))
    received = await chunks(make_client, FakeAnswer("x"), service_tier="auto")
    assert {chunk["service_tier"] for chunk in received} == {"default"}
