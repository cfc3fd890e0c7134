"""uvicorn's HTTP protocol with limits: time and size of headers, connections, pipelined requests.

uvicorn has no read deadline, and its httptools parser has no header limit: one client could hold any number of
connections with half a header each, or send headers of any size. An ASGI application can't see either. The limits
on bodies are in `body_reader.py`.

Also here, because only the protocol knows the connection: streams to HTTP/1.0 clients end with the connection
instead of using chunks (RFC 9112, section 6.1), which uvicorn 0.54 sends to every client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve_app.errors import HeadersTooLarge, InvalidRequest, Overloaded, RequestTimeout, ServiceError
from serve_app.ingress.errors import error_json

MAX_PIPELINED: Final = 16  # requests on one connection that wait for the response to an earlier one
# After a refusal, what still arrives is read and dropped for this long: a connection that is closed with unread bytes
# is reset by the kernel, and the client may lose the response that says why.
DISCARD_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may hold before a request is complete."""

    header_timeout_s: float  # from the connection, or the first byte of a later request, to the end of the headers
    max_header_bytes: int  # request line and header fields of one request
    max_headers: int  # header fields of one request
    max_connections: int  # open connections of this process


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. `bounded_protocol` makes the subclass that has `limits`."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._header_bytes = 0  # received since the headers began; only meaningful while their timer runs
        self._header_timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._message_complete = True
        self._discard_timer: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_headers()
        if len(self.connections) > self.limits.max_connections and not self._close_oldest_incomplete():
            self._refuse(
                Overloaded(f"The service has {self.limits.max_connections} open connections, its limit. Retry shortly.")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_headers()
        self._end_discarding()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._header_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._begin_headers()
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_timer is not None and self._header_bytes > self.limits.max_header_bytes:
            self._refuse(self._too_large())

    # -- httptools.HttpRequestParser calls these

    def on_headers_complete(self) -> None:
        self._end_headers()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.max_header_bytes or len(self.headers) > self.limits.max_headers:
            self._refuse(self._too_large())
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(InvalidRequest(f"More than {MAX_PIPELINED} requests wait on this connection, the limit."))
        if not self._refused:
            self._message_complete = False
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            self._message_complete = True
            self._end_discarding()
            super().on_message_complete()

    # -- uvicorn's own hooks

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if cycle.scope["http_version"] == "1.0":
            app = _delimited_by_close(app, cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._message_complete:  # refused before the end of its body
            self._discard()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("The request is not valid HTTP/1.1."))

    def _should_upgrade(self) -> bool:
        return False  # there are no WebSocket routes; the request is answered as plain HTTP

    # -- headers that are not complete

    def _begin_headers(self) -> None:
        self._header_bytes = 0
        self._header_timer = self.loop.call_later(self.limits.header_timeout_s, self._on_header_timeout)

    def _end_headers(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        if self._header_bytes:
            limit = self.limits.header_timeout_s
            self._refuse(RequestTimeout(f"The request's headers were not complete within {limit:g} seconds."))
        else:  # a connection that was opened in advance
            self._end_headers()
            self.transport.close()

    def _close_oldest_incomplete(self) -> bool:
        """Closes the connection whose headers have been incomplete for the longest; False if there is none."""
        incomplete = {
            connection: connection._header_timer.when()
            for connection in self.connections
            if isinstance(connection, BoundedHttpProtocol) and connection._header_timer and connection is not self
        }
        if not incomplete:
            return False
        oldest = min(incomplete, key=incomplete.__getitem__)
        oldest._refuse(RequestTimeout("The service has no free connection and closed this incomplete request."))
        return True

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"The request line and the headers may have {self.limits.max_header_bytes} bytes in"
            f" {self.limits.max_headers} fields at most; this request has more."
        )

    def _refuse(self, error: ServiceError) -> None:
        """Sends an error response and closes the connection; what arrives after it is not read."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._end_headers()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an error would become a part of the response that is being sent
        else:
            body = orjson.dumps(error_json(error))
            retry = b"" if error.retry_after_s is None else b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + retry + b"\r\n" + body)
            self.transport.write_eof()
            self._discard()

    def _discard(self) -> None:
        self._discard_timer = self._discard_timer or self.loop.call_later(DISCARD_S, self.transport.close)

    def _end_discarding(self) -> None:
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None


def bounded_protocol(limits: ConnectionLimits) -> type[BoundedHttpProtocol]:
    """The protocol with its limits, as `uvicorn.Config(http=...)` takes it."""
    return type("BoundedHttpProtocol", (BoundedHttpProtocol,), {"limits": limits})


def _delimited_by_close(app: ASGIApp, cycle: Any) -> Any:
    """`app`, whose responses of unknown length end when the connection is closed."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        until_close = False

        async def send_delimited(message: Message) -> None:
            nonlocal until_close
            if message["type"] == "http.response.start":
                until_close = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                if until_close:
                    cycle.chunked_encoding = False
            elif until_close:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_delimited)

    return respond
