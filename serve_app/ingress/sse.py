"""Server-sent events; nothing is sent before the first chunk, so an early failure keeps its HTTP status."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve_app.errors import ServiceError
from serve_app.ingress.disconnect import run_until_disconnect
from serve_app.ingress.errors import to_service_error
from serve_app.ingress.request_log import RequestLog

DONE: Final = "[DONE]"  # OpenAI's last line; not JSON


def data_frame(chunk: Any) -> bytes:
    """An unnamed event: an object is sent as JSON, a string as it is."""
    return b"data: " + (chunk.encode() if isinstance(chunk, str) else orjson.dumps(chunk)) + b"\n\n"


def typed_frame(chunk: Any) -> bytes:
    """An event named by the `type` of its object, as in OpenAI's Responses API."""
    return f"event: {chunk['type']}\n".encode() + data_frame(chunk)


class EventStream(Response):
    """A response with one event per chunk; a failure after the first chunk is sent as further chunks."""

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncGenerator[Any, None],
        request_log: RequestLog,
        *,
        headers: Callable[[], Mapping[str, str]],  # called when the first chunk is there
        frame: Callable[[Any], bytes],
        error_chunks: Callable[[ServiceError], Sequence[Any]],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._request_log = request_log
        self._first_headers = headers
        self._frame = frame
        self._error_chunks = error_chunks
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await run_until_disconnect(receive, self._request_log, self._stream(send))
        except ClientDisconnect:
            if not self._started:  # then a response with a status follows, for the log
                raise

    async def _stream(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            first = await anext(chunks)
            self._started = True
            self.headers.update(self._first_headers())
            await _send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send(send, self._message(first))
            async for chunk in self._with_failure(chunks):
                await _send(send, self._message(chunk))
            await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _with_failure(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as error:
            for chunk in self._error_chunks(to_service_error(error, self._request_log)):
                yield chunk

    def _message(self, chunk: Any) -> Message:
        return {"type": "http.response.body", "body": self._frame(chunk), "more_body": True}


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as error:  # newer servers report a closed connection in this way
        raise ClientDisconnect from error
