"""One chat completion over HTTP, streaming or not, read and checked for its form."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

PATH = "/v1/chat/completions"


class ChatFailed(Exception):
    """The service refused the request, failed, or ended its stream early; says how."""


@dataclass(frozen=True)
class Reply:
    """A complete answer. `pieces` are the contents of a stream's chunks, or the one content of a message."""

    pieces: list[str]
    finish_reason: str
    usage: dict[str, Any]
    message: dict[str, Any] = field(default_factory=dict)  # empty for a stream
    first_text_s: float = 0.0  # seconds after sending; 0 where there is no text

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def chat(client: httpx.AsyncClient, body: dict[str, Any], address: str = "") -> Reply:
    """The reply to a body; streamed if the body says so. Raises ChatFailed, or httpx.HTTPError for a connection's end.

    `address` is the service's URL where the client has no base URL.
    """
    started = time.monotonic()
    if body.get("stream"):
        return await _stream(client, address + PATH, body, started)
    response = await client.post(address + PATH, json=body)
    if response.status_code != 200:
        raise ChatFailed(f"{response.status_code} {response.text[:300]}")
    reply = response.json()
    (choice,) = reply["choices"]
    content = choice["message"].get("content") or ""
    first_text_s = time.monotonic() - started if content else 0.0
    return Reply([content], choice["finish_reason"], reply["usage"], choice["message"], first_text_s)


async def _stream(client: httpx.AsyncClient, url: str, body: dict[str, Any], started: float) -> Reply:
    pieces: list[str] = []
    usage: dict[str, Any] = {}
    finish_reason, last, first_text_s = "", "", 0.0
    body = {**body, "stream_options": {"include_usage": True}}
    async with client.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            await response.aread()
            raise ChatFailed(f"{response.status_code} {response.text[:300]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            last = line.removeprefix("data: ")
            if last == "[DONE]":
                continue
            chunk = json.loads(last)
            if "error" in chunk:
                raise ChatFailed(f"An error event in the stream: {json.dumps(chunk['error'])}")
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                pieces.append(choice["delta"].get("content") or "")
                finish_reason = choice["finish_reason"] or finish_reason
                if pieces[-1] and not first_text_s:
                    first_text_s = time.monotonic() - started
    if last != "[DONE]":
        raise ChatFailed("The stream ended without [DONE].")
    return Reply(pieces, finish_reason, usage, first_text_s=first_text_s)
