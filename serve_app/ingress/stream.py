"""Server-sent events; none goes out before the first event, so early failures keep a status."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve_app.ingress.caller import while_present
from serve_app.ingress.problems import error_reply, told
from serve_app.ingress.record import Record

DONE: Final = "[DONE]"  # OpenAI's last line; not JSON


class EventStream(Response):
    """A response of one `data:` line for each chunk; a failure after the first is told as a chunk.

    A chunk is an object for JSON, or a string that goes out as it is.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[Any, None], record: Record) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._record = record
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
            await _send(send, _line(first))
            async for chunk in self._until_failure(chunks):
                await _send(send, _line(chunk))
            await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_failure(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as error:
            yield error_reply(told(error, self._record))


def _line(chunk: Any) -> Message:
    text = chunk.encode() if isinstance(chunk, str) else orjson.dumps(chunk)
    return {"type": "http.response.body", "body": b"data: " + text + b"\n\n", "more_body": True}


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as error:  # newer servers say so here that the connection is gone
        raise ClientDisconnect from error
