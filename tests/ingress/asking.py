"""Bodies that callers send, the door over fakes, and how to read its streams."""

from __future__ import annotations

import base64
from collections.abc import Callable
from itertools import count
from typing import Any, TypeAlias

import httpx
from fastapi import FastAPI

from serve_app.contracts import Answer
from serve_app.ingress.asgi import create_app
from serve_app.settings import Settings
from tests.fakes import FakeAnswer, FakeDescribe, FakeMeter

OpenDoor: TypeAlias = Callable[..., httpx.AsyncClient]

MODEL = "glm-vision-demo"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAIAAAD9b0jDAAAAKElEQVR42mM8ISfHQG3AxEADMGroqKGjho4aOmroqK"
    "Gjho4aOvgMBQB+BAE8FfyCFgAAAABJRU5ErkJggg=="
)
PICTURE_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def chat(content: Any = "Which number?", **fields: Any) -> dict[str, Any]:
    """A chat body with one question."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def picture(url: str = PICTURE_URL, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def make_app(
    answer: Answer | None = None,
    *,
    describe: Any = None,
    meter: FakeMeter | None = None,
    settings: Any = None,
    **more: Any,
) -> FastAPI:
    ids = count(1)
    return create_app(
        Settings(http=settings or {}),
        answer or FakeAnswer("Two ", "cats"),
        describe or FakeDescribe(),
        meter or FakeMeter(),
        new_id=lambda: f"id{next(ids)}",
        now=lambda: 1_700_000_000.9,
        **more,
    )


def events_of(response: httpx.Response) -> list[str]:
    """The payloads of a stream, checked to be framed as server-sent events."""
    *frames, rest = response.text.split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    return [frame.removeprefix("data: ") for frame in frames]
