"""Request bodies, the app over fakes, and a parser of its streams."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from itertools import count
from typing import Any, TypeAlias

import httpx
from fastapi import FastAPI

from serve_app.contracts import Answer, ChatRequest
from serve_app.ingress.app import create_app
from serve_app.ingress.chat.request import ChatBody, chat_request
from serve_app.settings import Settings
from tests.fakes import FakeAnswer, FakeDescribe, FakeMeter, FakeTokenize

MakeClient: TypeAlias = Callable[..., httpx.AsyncClient]
Connect: TypeAlias = Callable[..., Any]  # OpenAI's client, connected to the app

MODEL = "glm-vision-demo"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAIAAAD9b0jDAAAAKElEQVR42mM8ISfHQG3AxEADMGroqKGjho4aOmroqK"
    "Gjho4aOvgMBQB+BAE8FfyCFgAAAABJRU5ErkJggg=="
)
PICTURE_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def chat(content: Any = "Which number?", **fields: Any) -> dict[str, Any]:
    """A chat body with one question."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def picture(url: str = PICTURE_URL, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def make_app(
    answer: Answer | None = None,
    *,
    describe: Any = None,
    tokenize: Any = None,
    meter: FakeMeter | None = None,
    settings: Any = None,
    model: Any = None,
    access: Any = None,
    limits: Any = None,
    preprocess: Any = None,
    clock_now: Callable[[], float] = lambda: 1_700_000_000.9,
    **more: Any,
) -> FastAPI:
    ids = count(1)
    return create_app(
        Settings(
            http=settings or {},
            model=model or {},
            access=access or {},
            limits=limits or {},
            preprocess=preprocess or {},
        ),
        answer or FakeAnswer("Two ", "cats"),
        describe or FakeDescribe(),
        tokenize or FakeTokenize(1, 2, 3),
        meter or FakeMeter(),
        new_id=lambda: f"id{next(ids)}",
        now=clock_now,
        **more,
    )


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """The request that the pipeline would get."""
    return chat_request(ChatBody.read(dict(body)), id="one", deadline_s=9.0)


def events_of(response: httpx.Response) -> list[str]:
    """The payloads of a stream, checked to be framed as server-sent events; a named one has the name of its type."""
    *frames, rest = response.text.split("\n\n")
    assert rest == ""
    payloads = []
    for frame in frames:
        *name, data = frame.split("\n")
        assert data.startswith("data: ")
        payloads.append(data.removeprefix("data: "))
        assert name in ([], [f"event: {json.loads(payloads[-1])['type']}"] if name else [])
    return payloads


async def soon(fact: Callable[[], bool]) -> None:
    for _ in range(2000):
        if fact():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not become true in 10 s")
