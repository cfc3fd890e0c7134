"""Server-sent events; none goes out before the first event, so early failures keep a status."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve_app.errors import ServiceError
from serve_app.ingress.disconnect import while_present
from serve_app.ingress.errors import error_reply, told
from serve_app.ingress.request_log import Record

DONE: Final = "[DONE]"  # OpenAI's last line; not JSON

Frame: TypeAlias = Callable[[Any], bytes]
LateFailure: TypeAlias = Callable[[ServiceError], Sequence[Any]]


def data_frame(chunk: Any) -> bytes:
    """A chunk as chat has it: an object for JSON, or a string that goes out as it is."""
    return b"data: " + (chunk.encode() if isinstance(chunk, str) else orjson.dumps(chunk)) + b"\n\n"


def typed_frame(event: Any) -> bytes:
    """An event as responses have it: named by its `type`."""
    return f"event: {event['type']}\n".encode() + data_frame(event)


def error_chunk(error: ServiceError) -> Sequence[Any]:
    """A failure as the last chunk of a chat."""
    return [error_reply(error)]


class EventStream(Response):
    """A response of one frame for each chunk; a failure after the first chunk is told as further chunks."""

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncGenerator[Any, None],
        record: Record,
        *,
        frame: Frame = data_frame,
        late_failure: LateFailure = error_chunk,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._record = record
        self._frame = frame
        self._late_failure = late_failure
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_present(receive, self._record, self._deliver(send))
        except ClientDisconnect:
            if not self._begun:  # then it still has a status, for the log
                raise

    async def _deliver(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            first = await anext(chunks)
            self._begun = True
            self.headers["Server-Timing"] = self._record.server_timing
            await _send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send(send, self._part(first))
            async for chunk in self._until_failure(chunks):
                await _send(send, self._part(chunk))
            await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_failure(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as error:
            for chunk in self._late_failure(told(error, self._record)):
                yield chunk

    def _part(self, chunk: Any) -> Message:
        return {"type": "http.response.body", "body": self._frame(chunk), "more_body": True}


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as error:  # newer servers say so here that the connection is gone
        raise ClientDisconnect from error
