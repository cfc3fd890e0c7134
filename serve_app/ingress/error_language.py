"""Errors in the language of the caller: `message` in Chinese where `Accept-Language` prefers it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.chinese.language import Language, language_of_header
from serve_app.chinese.translate import message_in_chinese

VARY: Final = "Accept-Language"


class ErrorLanguage:
    """ASGI middleware: translates the JSON of errors, whichever route or middleware has written it.

    An error has `Content-Language` and `Vary: Accept-Language`. `code`, `type`, `param` and the status are the same in
    both languages; programs read these, people read `message`. Logs stay English. Errors inside streams are translated
    by `sse.py`, and those of connections that never became a request (`http_protocol.py`) are English.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None  # of an error that is translated when its body is complete
        body = b""

        async def send_translated(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                if headers.get("content-type") == "application/json":
                    language = language_of(scope)
                    headers["Content-Language"] = language
                    headers.add_vary_header(VARY)
                    message = {**message, "headers": headers.raw}
                    if language == "zh":
                        start = message
                        return
            elif start is not None and message["type"] == "http.response.body":
                body += message.get("body", b"")
                if message.get("more_body", False):
                    return
                content = in_chinese(body) if body else b""  # HEAD: no body, and its length stays
                if body:
                    MutableHeaders(raw=start["headers"])["Content-Length"] = str(len(content))
                await send(start)
                message, start = {"type": "http.response.body", "body": content}, None
            await send(message)

        await self._app(scope, receive, send_translated)


def language_of(scope: Scope) -> Language:
    return language_of_header(Headers(scope=scope).get("accept-language", ""))


def in_chinese(body: bytes) -> bytes:
    """The JSON of an error with its message in Chinese; anything else as it is."""
    try:
        error = (content := orjson.loads(body))["error"]
        error["message"] = message_in_chinese(error["message"], error["code"] or "")
    except (ValueError, LookupError, TypeError):
        return body
    return orjson.dumps(content)


def replaced(chunk: Any, old: str, new: str) -> Any:
    """A chunk of a stream with one text for another, wherever its API has the message of an error."""
    match chunk:
        case dict():
            return {name: replaced(value, old, new) for name, value in chunk.items()}
        case list() | tuple():
            return [replaced(value, old, new) for value in chunk]
        case str():
            return new if chunk == old else chunk
        case _:
            return chunk
