"""Chat as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from serve_app.errors import EngineFailed, ImageRejected, Overloaded
from serve_app.ingress.chat.response import ChatCompletionChunk
from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, chat, events_of, make_app

URL = "/v1/chat/completions"


async def test_a_stream_is_openais_chunks_from_the_role_to_done(make_client: MakeClient) -> None:
    response = await make_client(FakeAnswer("两只", "猫")).post(URL, json=chat(stream=True))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "content-length" not in response.headers
    *lines, done = events_of(response)
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    for chunk in chunks:
        TypeAdapter(ChatCompletionChunk).validate_python(chunk, strict=True)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "两只", "reasoning_content": None},
        {"content": "猫", "reasoning_content": None},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {(c["id"], c["object"], c["created"]) for c in chunks} == {
        ("chatcmpl-id2", "chat.completion.chunk", 1_700_000_000)
    }
    assert chunks[-1]["timings"]["decode_steps_ms"] == 8.0
    assert all("usage" not in chunk for chunk in chunks)


async def test_include_usage_adds_one_chunk_without_choices(make_client: MakeClient) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    chunks = [json.loads(line) for line in events_of(await make_client().post(URL, json=body))[:-1]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 42
    assert chunks[-1]["usage"]["prompt_tokens_details"]["image_tokens"] == 30
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 4


async def test_continuous_usage_counts_up_in_every_chunk(make_client: MakeClient) -> None:
    body = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    chunks = [json.loads(line) for line in events_of(await make_client().post(URL, json=body))[:-1]]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 2, 2]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {40}


async def test_stages_known_at_the_start_are_in_the_header(make_client: MakeClient) -> None:
    response = await make_client().post(URL, json=chat(stream=True))
    assert "queue;dur=0.250" in response.headers["server-timing"]
    assert "prefill" not in response.headers["server-timing"]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_event_keeps_its_status(make_client: MakeClient, stream: bool) -> None:
    answer = FakeAnswer("x", error=ImageRejected("Not a picture.", "messages[0].content[0].image_url"))
    response = await make_client(answer).post(URL, json=chat(stream=stream))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_image"
    assert response.json()["error"]["param"] == "messages[0].content[0].image_url"
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("fail_after", [1, 2, 3])
async def test_an_error_after_the_first_event_is_sent_in_the_stream(make_client: MakeClient, fail_after: int) -> None:
    answer = FakeAnswer("Two ", "cats", error=Overloaded("No memory left."), fail_after=fail_after)
    response = await make_client(answer).post(URL, json=chat(stream=True))
    assert response.status_code == 200
    *before, last, done = events_of(response)
    assert done == "[DONE]"
    assert len(before) == fail_after
    assert json.loads(last) == {
        "error": {"message": "No memory left.", "type": "overloaded_error", "param": None, "code": "overloaded"}
    }


async def test_a_late_unexpected_error_is_a_fixed_sentence(make_client: MakeClient) -> None:
    answer = FakeAnswer("Two ", error=KeyError("secret"), fail_after=2)
    last = events_of(await make_client(answer).post(URL, json=chat(stream=True)))[-2]
    assert json.loads(last)["error"]["code"] == "internal_error"
    assert "secret" not in last


@pytest.mark.parametrize(
    ("path", "body", "last"),
    [
        (URL, chat(stream=True), "[DONE]"),
        ("/v1/completions", {"prompt": "x", "stream": True}, "[DONE]"),
        ("/v1/responses", {"input": "x", "stream": True}, '"response.failed"'),
    ],
)
async def test_a_stop_of_the_service_ends_a_stream_with_an_error(path: str, body: dict[str, Any], last: str) -> None:
    """Serve cancels what still runs after the grace period; clients took the part for the complete answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        if not sent:
            sent.append(None)
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    answer = FakeAnswer("a", "b", hold_after=2)
    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", b"localhost")], "query_string": b""}
    call = asyncio.create_task(make_app(answer)(scope, receive, send))
    await answer.held.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    chunks = b"".join(message.get("body", b"") for message in sent[1:]).decode().strip().split("\n\n")
    payloads = [chunk.splitlines()[-1].removeprefix("data: ") for chunk in chunks]
    assert last in payloads[-1]
    assert "The service was stopped before the answer was complete." in payloads[-2]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_a_terminal_event_is_a_failure(make_client: MakeClient, stream: bool) -> None:
    response = await make_client(FakeAnswer("Two ", break_off=True)).post(URL, json=chat(stream=stream))
    error = json.loads(events_of(response)[-2])["error"] if stream else response.json()["error"]
    assert error["code"] == EngineFailed.code


async def test_text_arrives_when_it_is_generated_not_at_the_end(serving: Callable[..., Any]) -> None:
    answer = FakeAnswer("Two ", "cats", hold_after=2)
    url = await serving(answer)
    async with httpx.AsyncClient() as client, client.stream("POST", url + URL, json=chat(stream=True)) as response:
        lines = response.aiter_lines()
        seen = ""
        async with asyncio.timeout(5):
            while "Two " not in seen:
                seen += await anext(lines)
        assert answer.running == 1
        assert "cats" not in seen
        answer.release.set()
        rest = [line async for line in lines]
    assert rest[-2:] == ["data: [DONE]", ""]
