"""Server-sent events; an early failure keeps its HTTP status, and a silent stream gets comments.

Nothing is sent before the first chunk or the first `keep_alive_s`: proxies cut connections that are silent for a
minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve_app.chinese.language import Language
from serve_app.chinese.translate import message_in_chinese
from serve_app.errors import EngineFailed, ServiceError
from serve_app.ingress.disconnect import is_stopped, run_until_disconnect
from serve_app.ingress.error_language import language_of, replaced
from serve_app.ingress.errors import to_service_error
from serve_app.ingress.request_log import RequestLog

DONE: Final = "[DONE]"  # OpenAI's last line; not JSON
KEEP_ALIVE: Final = b": keep-alive\n\n"  # a comment, which clients ignore


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
        headers: Callable[[], Mapping[str, str]],  # called when the first chunk or comment is sent
        frame: Callable[[Any], bytes],
        error_chunks: Callable[[ServiceError], Sequence[Any]],
        keep_alive_s: float,  # a comment is sent after this many seconds without a chunk
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._request_log = request_log
        self._first_headers = headers
        self._frame = frame
        self._error_chunks = error_chunks
        self._keep_alive_s = keep_alive_s
        self._started = False
        self._language: Language = "en"  # of errors
        self._sending = asyncio.Lock()  # a chunk or a comment
        self._last_sent = 0.0  # in the event loop's time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._language = language_of(scope)
        try:
            await run_until_disconnect(receive, self._request_log, self._stream(send))
        except ClientDisconnect:
            if not self._started:  # then a response with a status follows, for the log
                raise

    async def _stream(self, send: Send) -> None:
        keeping_alive = asyncio.create_task(self._keep_alive(send))
        try:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    await self._send_frame(send, self._frame(chunk))
        except ClientDisconnect:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if not self._started:
                raise
            await self._send_failure(send, error)
            if isinstance(error, asyncio.CancelledError) and not is_stopped():
                raise
        finally:
            keeping_alive.cancel()
        await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        """Sends a comment whenever nothing was sent for `keep_alive_s`."""
        loop = asyncio.get_running_loop()
        self._last_sent = loop.time()
        while True:
            await asyncio.sleep(max(0.0, self._last_sent + self._keep_alive_s - loop.time()))
            if loop.time() >= self._last_sent + self._keep_alive_s:
                await self._send_frame(send, KEEP_ALIVE)

    async def _send_frame(self, send: Send, frame: bytes) -> None:
        async with self._sending:
            if not self._started:
                self._started = True
                self.headers.update(self._first_headers())
                await _send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send(send, {"type": "http.response.body", "body": frame, "more_body": True})
            self._last_sent = asyncio.get_running_loop().time()

    async def _send_failure(self, send: Send, error: BaseException) -> None:
        """The last chunks of a stream that failed, or that a stop of the service cuts."""
        if isinstance(error, Exception):
            known = to_service_error(error, self._request_log)
        else:
            known = EngineFailed("The service was stopped before the answer was complete.")
            if is_stopped():
                self._request_log.code = known.code
        message = known.message
        shown = message_in_chinese(message, known.code) if self._language == "zh" else message
        for chunk in self._error_chunks(known):
            await self._send_frame(send, self._frame(replaced(chunk, message, shown)))


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as error:  # newer servers report a closed connection in this way
        raise ClientDisconnect from error
