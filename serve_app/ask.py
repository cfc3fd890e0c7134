"""`glm-serve ask`: sends a question to a running service by its OpenAI API and streams the answer."""

from __future__ import annotations

import base64
import json
import mimetypes
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import urlsplit

import httpx

from serve_app.chinese.language import language_of_terminal
from serve_app.chinese.translate import in_terminal_language

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 600.0  # between two pieces of an answer; the service's own deadline is shorter
_URL: Final = re.compile(r"(https?://|data:)\S+")
_FILE_NAME: Final = re.compile(r"\S+\.(jpe?g|png|gif|webp|bmp|tiff?|avif|hei[cf]|pdf)", re.IGNORECASE)


class AskFailed(Exception):
    """There is no answer; the message is for the user at the terminal."""


@dataclass(frozen=True)
class Question:
    """A question and its pictures: paths or URLs."""

    text: str
    pictures: tuple[str, ...] = ()

    @classmethod
    def of(cls, pictures: Sequence[str], text: str, stdin: TextIO) -> Question:
        """The question of a command line; `-` is read from `stdin`. Raises AskFailed if it is empty or a picture."""
        if text == "-":
            text = stdin.read().strip()
        elif _URL.fullmatch(text) or _FILE_NAME.fullmatch(text) or _is_file(text):
            raise AskFailed(
                f"The question is missing: the last argument, {text}, is a picture. Write the question after it:"
                f' glm-serve ask {text} "What is the number?"'
            )
        if not text.strip():
            raise AskFailed("The question is empty.")
        return cls(text, tuple(pictures))


@dataclass
class _Reply:
    """What has been received of an answer."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    first_text_s: float | None = None  # after the request was sent
    total_s: float = 0.0

    def add(self, chunk: dict[str, Any], after_s: float) -> str:
        """Take in a chunk; return its text."""
        self.usage = chunk.get("usage") or self.usage
        added = ""
        for choice in chunk.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta", {})
            self.reasoning += delta.get("reasoning_content") or ""
            added += delta.get("content") or ""
        if added and self.first_text_s is None:
            self.first_text_s = after_s
        self.text += added
        self.total_s = after_s
        return added


def ask(
    url: str,
    question: Question,
    *,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    key: str = "",
    as_json: bool = False,
    answer: TextIO | None = None,
    remarks: TextIO | None = None,
    progress: TextIO | None = None,
) -> None:
    """Stream the answer to `answer` (default: standard output). Raises AskFailed.

    `remarks` (default: standard error) gets a line if the answer is cut or empty. `progress` is a terminal, which shows
    for how long the answer is waited for. With `as_json` the answer is one JSON object.
    """
    answer, remarks = answer or sys.stdout, remarks or sys.stderr
    parts = [{"type": "image_url", "image_url": {"url": _picture_url(name, progress)}} for name in question.pictures]
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": question.text}]}],
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens

    sent_at = time.perf_counter()
    reply = _Reply()
    with _Waiting(progress) as waiting:
        for chunk in _chunks(_service(url), body, key):
            text = reply.add(chunk, time.perf_counter() - sent_at)
            if text:
                waiting.end()
                if not as_json:
                    answer.write(text)
                    answer.flush()
    if as_json:
        print(json.dumps(_as_object(reply), ensure_ascii=False, indent=2), file=answer)
    elif reply.text and not reply.text.endswith("\n"):
        answer.write("\n")
    answer.flush()
    if reply.finish_reason == "length":
        tokens = reply.usage.get("completion_tokens")
        after = f" after {tokens} tokens" if tokens else ""
        _remark(f"The answer was cut{after}; --max-tokens N sets the limit.", remarks)
    elif not reply.text:
        _remark("The answer is empty.", remarks)
    if progress and reply.first_text_s is not None:
        print(_timings(reply), file=progress, flush=True)


def _remark(sentence: str, remarks: TextIO) -> None:
    print(in_terminal_language(f"glm-serve: {sentence}"), file=remarks)


def _service(url: str) -> str:
    """The address without the `/v1` that `glm-serve up` prints."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a long question is no file name
        return False


def _picture_url(picture: str, progress: TextIO | None) -> str:
    """A URL unchanged; a file as a data URL."""
    if _URL.fullmatch(picture):
        return picture
    file = Path(picture)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise AskFailed(
            f"Can't read the picture {picture}: {error.strerror}. The pictures come first, the question is the last"
            " argument, in quotation marks."
        ) from error
    if progress:
        print(f"reading {file.name}: {len(content) / 1000:,.0f} KB", file=progress, flush=True)
    # A data URL needs a media type; the service does not use it.
    kind = mimetypes.guess_type(file.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


class _Waiting:
    """A line on the terminal with the seconds until the first text; it is removed at the end."""

    def __init__(self, terminal: TextIO | None) -> None:
        self._terminal = terminal
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> _Waiting:
        if self._terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        if self._terminal and not self._ended.is_set():
            self._ended.set()
            self._thread.join()

    def _show(self) -> None:
        assert self._terminal
        seconds = 0
        while not self._ended.wait(1.0):
            seconds += 1
            self._terminal.write(f"\rwaiting for the answer … {seconds} s")
            self._terminal.flush()
        if seconds:
            self._terminal.write("\r\x1b[K")  # erases the line
            self._terminal.flush()


def _chunks(url: str, body: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    headers = {"Accept-Language": language_of_terminal(), **({"Authorization": f"Bearer {key}"} if key else {})}
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    try:
        with (
            httpx.Client(timeout=timeout, headers=headers, mounts=_direct(url)) as client,
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


def _direct(url: str) -> dict[str, None]:
    """The `mounts` of httpx that keep a URL of this machine from the proxy of the environment."""
    from serve_app.settings_access import is_loopback

    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # httpx reports what is wrong with the URL
        return {}
    if not is_loopback(host):
        return {}
    return {f"all://[{host}]" if ":" in host else f"all://{host}": None}


def _refusal(response: httpx.Response) -> str:
    """The service's error message, or the status if the server is not this service."""
    try:
        message: str = response.json()["error"]["message"]
        return message
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code} {response.reason_phrase}. Is it a glm-serve service?"


def _as_object(reply: _Reply) -> dict[str, Any]:
    """The answer of `--json`; times in seconds."""
    return {
        "answer": reply.text,
        **({"reasoning": reply.reasoning} if reply.reasoning else {}),
        "finish_reason": reply.finish_reason,
        "usage": reply.usage,
        "first_token_s": None if reply.first_text_s is None else round(reply.first_text_s, 3),
        "total_s": round(reply.total_s, 3),
    }


def _timings(reply: _Reply) -> str:
    first_text_s = reply.first_text_s or 0.0
    rest_s = reply.total_s - first_text_s
    parts = [f"first token after {first_text_s:.2f} s"]
    tokens = reply.usage.get("completion_tokens", 0)
    if tokens > 1 and rest_s > 0:
        parts.append(f"then {(tokens - 1) / rest_s:.0f} tokens/s")
    if reply.usage:
        parts.append(f"{reply.usage['prompt_tokens']} tokens in, {tokens} out")
    return "; ".join(parts)
