"""`glm-serve ask`: sends a question to a running service by its OpenAI API and streams the answer."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import httpx

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 600.0  # between two pieces of an answer; the service's own deadline is shorter


class AskFailed(Exception):
    """There is no answer; the message is for the user at the terminal."""


def ask(
    url: str,
    pictures: Sequence[str],
    question: str,
    *,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    answer: TextIO | None = None,
    progress: TextIO | None = None,
) -> None:
    """Stream the answer to `answer` (default: standard output) and timings to `progress`. Raises AskFailed."""
    answer = answer or sys.stdout
    parts = [{"type": "image_url", "image_url": {"url": _picture_url(picture, progress)}} for picture in pictures]
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}],
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens

    sent_at = time.perf_counter()
    first_text: float | None = None
    usage: dict[str, Any] = {}
    ends_line = True
    for chunk in _chunks(url.rstrip("/"), body):
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            text = choice.get("delta", {}).get("content")
            if text:
                first_text = first_text or time.perf_counter()
                answer.write(text)
                answer.flush()
                ends_line = text.endswith("\n")
    if not ends_line:
        answer.write("\n")
    answer.flush()
    if progress and first_text:
        _print_timings(progress, first_text - sent_at, time.perf_counter() - first_text, usage)


def _picture_url(picture: str, progress: TextIO | None) -> str:
    """A URL unchanged; a file as a data URL."""
    if picture.startswith(("http://", "https://", "data:")):
        return picture
    file = Path(picture)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise AskFailed(f"Can't read the picture {picture}: {error.strerror}.") from error
    if progress:
        print(f"reading {file.name}: {len(content) / 1000:,.0f} KB", file=progress, flush=True)
    # A data URL needs a media type; the service does not use it.
    kind = mimetypes.guess_type(file.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _chunks(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    try:
        with (
            httpx.Client(timeout=timeout) as client,
            client.stream("POST", f"{url}/v1/chat/completions", json=body) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise AskFailed(_refusal(response))
            for line in response.iter_lines():
                payload = line.removeprefix("data: ")
                if payload == line or payload == "[DONE]":
                    continue
                chunk: dict[str, Any] = json.loads(payload)
                if "error" in chunk:
                    raise AskFailed(chunk["error"]["message"])
                yield chunk
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise AskFailed(f"No service answers at {url}. Start one with `glm-serve up`.") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise AskFailed(f"{url!r} is not the URL of a service: {str(error).rstrip('.')}.") from error
    except httpx.HTTPError as error:
        raise AskFailed(f"The connection to {url} failed: {str(error).rstrip('.') or type(error).__name__}.") from error


def _refusal(response: httpx.Response) -> str:
    """The service's error message, or the status if the server is not this service."""
    try:
        message: str = response.json()["error"]["message"]
        return message
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code} {response.reason_phrase}. Is it a glm-serve service?"


def _print_timings(progress: TextIO, first_text_s: float, rest_s: float, usage: dict[str, Any]) -> None:
    parts = [f"first token after {first_text_s:.2f} s"]
    tokens = usage.get("completion_tokens", 0)
    if tokens > 1 and rest_s > 0:
        parts.append(f"then {(tokens - 1) / rest_s:.0f} tokens/s")
    if usage:
        parts.append(f"{usage['prompt_tokens']} tokens in, {tokens} out")
    print("; ".join(parts), file=progress, flush=True)
