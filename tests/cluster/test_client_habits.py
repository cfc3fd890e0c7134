"""Requests as common clients send them, through the real service: none changes the answer to the question."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cluster.questions import EVALUATION, chat_body, data_url, questions

pytestmark = pytest.mark.cluster

QUESTION = next(question for question in questions(per_job=40) if question["kind"] == "tracking")
PICTURE = (EVALUATION / QUESTION["picture"]).read_bytes()
PLAIN = chat_body(QUESTION)
ASKED = PLAIN["messages"][-1]
SHOWN, TEXT = ASKED["content"]
HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}]
TOOL = {"type": "function", "function": {"name": "find_parcel", "parameters": {"type": "object"}}}

Body = dict[str, Any]


def after(*earlier: Body, **fields: Any) -> Body:
    """The question after earlier messages."""
    return {**PLAIN, "messages": [*earlier, ASKED], **fields}


def shown(image_url: Any) -> Body:
    """The question with another form of its picture."""
    return {**PLAIN, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": image_url}, TEXT]}]}


SAME_ANSWER: dict[str, Body] = {
    "base64 without a data URL": shown({"url": data_url(PICTURE).partition(",")[2]}),
    "a space in a data URL": shown({"url": data_url(PICTURE).replace(";base64", "; base64")}),
    "an address as a string": shown(data_url(PICTURE)),
    "a format of the picture": shown({"url": data_url(PICTURE), "format": "image/jpeg", "detail": None}),
    "do_sample": {**PLAIN, "temperature": 0.01, "do_sample": False},
    "top_p 0": {**PLAIN, "temperature": 0.7, "top_p": 0},
    "ids of z.ai": {**PLAIN, "request_id": "req-1", "user_id": "customer-1", "tool_stream": True},
    "null": {**PLAIN, "meta": None, "chat_id": None, "keep_alive": None, "tools": None, "stop": None},
    "defaults of vLLM": {**PLAIN, "best_of": 1, "echo": False, "skip_special_tokens": True, "length_penalty": 1.0},
    "defaults of llama.cpp": {**PLAIN, "mirostat": 0, "n_probs": 0, "typical_p": 1.0, "repeat_penalty": 1.0},
    "a number with a point": {**PLAIN, "max_tokens": 48.0},
    "more tokens than the context": {**PLAIN, "max_tokens": 163_840},
    "notes on messages": after({**HELLO[0], "id": "m1", "metadata": {"row": 7}}, HELLO[1]),
    "reasoning of another service": after(HELLO[0], {**HELLO[1], "reasoning_details": [{"text": "Hm."}]}),
    "an empty turn": after({"role": "user", "content": ""}, HELLO[1]),
    "half a character": after({"role": "user", "content": "Thanks \ud83d"}, HELLO[1]),
}


@pytest.fixture(scope="module")
def ask(base_url: str) -> Callable[[Body], httpx.Response]:
    client = httpx.Client(base_url=base_url, timeout=120)
    return lambda body: client.post("/v1/chat/completions", content=json.dumps(body))


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


@pytest.mark.parametrize("habit", SAME_ANSWER)
def test_a_clients_habit_changes_nothing(ask: Callable[[Body], httpx.Response], habit: str) -> None:
    assert text_of(ask(SAME_ANSWER[habit])) == QUESTION["answer"]


def test_an_earlier_call_that_was_cut_off_does_not_end_a_conversation(ask: Callable[[Body], httpx.Response]) -> None:
    function = {"name": "find_parcel", "arguments": '{"waybill": "ZX58'}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    result = {"role": "tool", "tool_call_id": "c1", "content": "error"}
    text_of(ask(after(ASKED, called, result, tools=[TOOL], tool_choice="none")))


def test_a_system_message_may_be_the_last(ask: Callable[[Body], httpx.Response]) -> None:
    text_of(ask({**PLAIN, "messages": [ASKED, {"role": "system", "content": "Answer briefly."}]}))


def test_an_empty_text_beside_a_picture_is_as_none(ask: Callable[[Body], httpx.Response]) -> None:
    alone, beside = [SHOWN], [SHOWN, {**TEXT, "text": ""}]
    texts = [text_of(ask({**PLAIN, "messages": [{"role": "user", "content": parts}]})) for parts in (alone, beside)]
    assert texts[0] == texts[1]


def test_a_begun_answer_is_continued(ask: Callable[[Body], httpx.Response]) -> None:
    begun = {"role": "assistant", "content": QUESTION["answer"][:3]}
    assert text_of(ask({**PLAIN, "messages": [ASKED, begun]})) == QUESTION["answer"][3:]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/v1/models", "/v1/models/"])
def test_head_gets_no_body(base_url: str, path: str) -> None:
    response = raw(base_url, f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""


def test_a_stream_to_an_http_1_0_client_ends_with_the_connection(base_url: str) -> None:
    body = json.dumps({"messages": HELLO[:1], "max_tokens": 4, "stream": True})
    request = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    head, _, events = raw(base_url, request).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert events.startswith(b"data: ")
    assert events.endswith(b"data: [DONE]\n\n")


def raw(base_url: str, request: str) -> bytes:
    """All that the service sends for a request until it closes the connection."""
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))
