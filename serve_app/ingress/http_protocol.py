"""uvicorn's HTTP protocol with limits: time and size of headers, connections, chunks, unread responses.

uvicorn has no read or write deadline, and its httptools parser has no header limit: one client could hold any number
of connections with half a header or an unread response each, or send headers of any size. An ASGI application can't
see either. The limits on bodies are in `body_reader.py`.

Also here, because only the protocol knows the connection: streams to HTTP/1.0 clients end with the connection
instead of using chunks (RFC 9112, section 6.1), which uvicorn 0.54 sends to every client; and requests to upgrade to
another protocol are answered as plain HTTP with their body, which uvicorn loses.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve_app.errors import HeadersTooLarge, InvalidRequest, Overloaded, RequestTimeout, ServiceError
from serve_app.ingress.errors import error_body
from serve_app.ingress.header_filter import request_id_header
from serve_app.ingress.request_line import without_extra_slashes

MAX_PIPELINED: Final = 16  # requests on one connection that wait for the response to an earlier one
# After a refusal, what still arrives is read and dropped for this long: a connection that is closed with unread bytes
# is reset by the kernel, and the client may lose the response that says why.
DISCARD_S: Final = 2.0
# Each chunk of a body costs a call of Python: a body in chunks of one byte takes 100 times as long as in large ones.
MAX_SMALL_CHUNKS: Final = 10_000
SMALL_CHUNK_BYTES: Final = 64  # on average


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may hold before a request is complete."""

    header_timeout_s: float  # from the connection, or the first byte of a later request, to the end of the headers
    max_header_bytes: int  # request line and header fields of one request
    max_headers: int  # header fields of one request
    max_connections: int  # open connections of this process
    send_timeout_s: float  # for which a client may leave a response unread


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. `bounded_protocol` makes the subclass that has `limits`."""

    limits: ConnectionLimits
    # Connections that wait for their client, each the longest first; a new connection may take their place.
    incomplete: dict[BoundedHttpProtocol, None]  # headers
    idle: dict[BoundedHttpProtocol, None]  # after a response
    unread: dict[BoundedHttpProtocol, None]  # the client does not read its response

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.url, self.headers = b"", []  # uvicorn sets them when a request begins
        self._fed = b""  # what the parser is reading
        self._header_bytes = 0  # received since the headers began; only meaningful while their timer runs
        self._header_timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._message_complete = True
        self._chunks = self._chunk_bytes = 0  # of the body that is being received
        self._discard_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._close_after_body = False
        self._responding: Any = None  # the cycle whose response is being sent; uvicorn's `cycle` is the latest request

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_headers()
        if len(self.connections) > self.limits.max_connections and not self._close_another():
            self._refuse(
                Overloaded(f"The service has {self.limits.max_connections} open connections, its limit. Retry shortly.")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_headers()
        self._end_discarding()
        self._end_sending()
        self.idle.pop(self, None)
        super().connection_lost(exc)
        if self._responding is not None and not self._responding.response_complete:
            # uvicorn 0.54 notes only in the latest request of a pipeline that the client is gone.
            self._responding.disconnected = True
            self._responding.message_event.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread[self] = None
        self._send_timer = self.loop.call_later(self.limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_sending()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self.idle.pop(self, None)
        if self._refused:
            return
        if self._header_timer is None and self._message_complete and (not self.cycle or self.cycle.response_complete):
            self._begin_headers()
        self._header_bytes += len(data)
        self._feed(data)
        if self._header_timer is not None and self._header_bytes > self.limits.max_header_bytes:
            self._refuse(self._too_large())

    def _feed(self, data: bytes) -> None:
        self._fed = data
        super().data_received(data)
        self._fed = b""  # idle connections keep no data

    # -- httptools.HttpRequestParser calls these

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # they are parsed again
        self._end_headers()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.max_header_bytes or len(self.headers) > self.limits.max_headers:
            self._refuse(self._too_large())
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(InvalidRequest(f"More than {MAX_PIPELINED} requests wait on this connection, the limit."))
        if not self._refused:
            self._message_complete = False
            self._chunks = self._chunk_bytes = 0
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._chunks += 1
        self._chunk_bytes += len(body)
        if self._chunks > MAX_SMALL_CHUNKS and self._chunk_bytes < self._chunks * SMALL_CHUNK_BYTES:
            self._refuse(
                InvalidRequest(
                    f"The body arrives in chunks of {self._chunk_bytes / self._chunks:.0f} bytes; after"
                    f" {MAX_SMALL_CHUNKS} chunks they must have {SMALL_CHUNK_BYTES} on average. Send larger chunks."
                )
            )
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._refused or self.parser.should_upgrade():
            return
        self._message_complete = True
        self._end_discarding()
        super().on_message_complete()
        if self._close_after_body:
            self.transport.close()

    # -- uvicorn's own hooks

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._responding = cycle
        if cycle.scope["http_version"] == "1.0":
            app = _delimited_by_close(app, cycle)
        if not self._message_complete:
            app = self._close_after_unread_body(app, cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        refused_early = not self._message_complete and not self.pipeline
        super().on_response_complete()
        if refused_early:
            self._discard()
        elif self.cycle.response_complete and not self.transport.is_closing():
            self.idle[self] = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("The request is not valid HTTP/1.1."))

    def _should_upgrade(self) -> bool:
        return True  # calls the next one; there are no WebSocket routes

    def handle_websocket_upgrade(self) -> None:
        """Goes on with the request as plain HTTP (RFC 9110, section 7.8), in the handler of httptools' exception.

        httptools takes the body of a request to upgrade for another protocol. Java's HttpClient asks each server for
        HTTP/2 in this way, with the request that it wants answered.
        """
        upgrade, method = sys.exception(), self.parser.get_method()
        assert upgrade is not None
        if method == b"CONNECT":
            self.send_400_response("")
            return
        if self._refused or self.transport.is_closing():
            return
        line = b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())
        headers = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade")
        rest = self._fed[upgrade.args[0] :]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._feed(line + headers + b"\r\n" + rest)

    # -- headers that are not complete

    def _begin_headers(self) -> None:
        self._header_bytes = 0
        self.incomplete[self] = None
        self._header_timer = self.loop.call_later(self.limits.header_timeout_s, self._on_header_timeout)

    def _end_headers(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
            del self.incomplete[self]

    def _on_header_timeout(self) -> None:
        if self._header_bytes:
            limit = self.limits.header_timeout_s
            self._refuse(RequestTimeout(f"The request's headers were not complete within {limit:g} seconds."))
        else:  # a connection that was opened in advance
            self._end_headers()
            self.transport.close()

    def _close_another(self) -> bool:
        """Closes a connection that waits for its client; False if there is none."""
        for oldest in islice((each for each in self.incomplete if each is not self), 1):
            oldest._refuse(RequestTimeout("The service has no free connection and closed this incomplete request."))
            return True
        for oldest in islice(self.idle, 1):
            del self.idle[oldest]
            oldest.transport.close()  # in order: its client sees that, and opens another for its next request
            return True
        for oldest in islice(self.unread, 1):
            oldest._end_sending()
            oldest.transport.abort()
            return True
        return False

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
        in_progress = self.cycle is not None and not self.cycle.response_complete
        if in_progress and (self.cycle.response_started or self.pipeline):
            self.transport.close()  # an error would become a part of another response
        else:
            if in_progress:  # a body that is refused while the application reads it
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            path = without_extra_slashes(self.url.partition(b"?")[0].decode("latin-1"), "/")
            body = error_body(error, path, request_id_header(self.headers) or uuid.uuid4().hex)
            retry = b"" if error.retry_after_s is None else b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + retry + b"\r\n" + body)
            self.transport.write_eof()
            self._discard()

    def _close_after_unread_body(self, app: Any, cycle: Any) -> Any:
        """`app`, after whose response to an incomplete request the connection is closed when the body has arrived.

        uvicorn closes it with the end of a response to `Connection: close`.
        """

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_before_close(message: Message) -> None:
                ends = message["type"] == "http.response.body" and not message.get("more_body", False)
                if ends and not cycle.keep_alive and not self._message_complete:
                    cycle.keep_alive = self._close_after_body = True
                await send(message)
                if ends and self._close_after_body and not self.transport.is_closing():
                    self.transport.write_eof()

            await app(scope, receive, send_before_close)

        return respond

    def _end_sending(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
            self.unread.pop(self, None)

    def _discard(self) -> None:
        self._discard_timer = self._discard_timer or self.loop.call_later(DISCARD_S, self.transport.close)

    def _end_discarding(self) -> None:
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None


def bounded_protocol(limits: ConnectionLimits) -> type[BoundedHttpProtocol]:
    """The protocol with its limits, as `uvicorn.Config(http=...)` takes it."""
    waiting: dict[str, dict[BoundedHttpProtocol, None]] = {"incomplete": {}, "idle": {}, "unread": {}}
    return type("BoundedHttpProtocol", (BoundedHttpProtocol,), {"limits": limits, **waiting})


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
