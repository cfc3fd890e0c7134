"""The limits on connections and headers, over real sockets; how HTTP/1.0 clients get streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serve_app.ingress.http_protocol import MAX_PIPELINED, ConnectionLimits, bounded_protocol

LIMITS = ConnectionLimits(header_timeout_s=0.3, max_header_bytes=4096, max_headers=20, max_connections=4)
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Two pieces without a content length."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"data: one\n\n", b"data: two\n\n", b""):
        await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """An error before the body was read."""
    await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"full"})


@asynccontextmanager
async def serve(app: object = stream, limits: ConnectionLimits = LIMITS) -> AsyncIterator[int]:
    config = uvicorn.Config(app, http=bounded_protocol(limits), port=0, log_level="error", lifespan="off")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def talk(port: int, data: bytes) -> tuple[str, bytes]:
    """The response's head and body to what is sent on one connection, which the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    response = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    head, _, body = response.partition(b"\r\n\r\n")
    return head.decode(), body


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


async def test_headers_that_are_not_complete_in_time_get_408() -> None:
    async with serve() as port:
        head, body = await talk(port, b"GET / HTTP/1.1\r\nHost: a")
    assert head.startswith("HTTP/1.1 408 ")
    assert code(body) == "request_timeout"


async def test_a_connection_on_which_nothing_is_sent_is_closed_without_a_response() -> None:
    async with serve() as port:
        assert await talk(port, b"") == ("", b"")


@pytest.mark.parametrize(
    "headers",
    [b"A: " + b"a" * 5000 + b"\r\n\r\n", b"A: " + b"a" * 100_000, b"A: a\r\n" * 30 + b"\r\n"],
    ids=["one large header", "a header without end", "many headers"],
)
async def test_headers_over_the_limits_get_431(headers: bytes) -> None:
    async with serve() as port:
        head, body = await talk(port, b"GET / HTTP/1.1\r\nHost: a\r\n" + headers)
    assert head.startswith("HTTP/1.1 431 ")
    assert code(body) == "headers_too_large"


async def test_a_long_path_counts_as_a_header() -> None:
    async with serve() as port:
        head, _ = await talk(port, b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert head.startswith("HTTP/1.1 431 ")


async def test_what_is_not_http_gets_an_error_in_the_shape_of_the_api() -> None:
    async with serve() as port:
        head, body = await talk(port, b"HELLO\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ")
    assert code(body) == "invalid_request"


async def test_when_all_connections_are_taken_by_incomplete_requests_a_complete_one_is_served() -> None:
    async with serve(limits=ConnectionLimits(30.0, 4096, 20, 4)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\n")
        await asyncio.sleep(0.05)
        head, _ = await talk(port, GET)
        assert head.startswith("HTTP/1.1 200 ")
        assert (await asyncio.wait_for(held[0][0].read(), 3)).startswith(b"HTTP/1.1 408 ")
        for _, writer in held:
            writer.close()


async def test_many_pipelined_requests_end_the_connection() -> None:
    async with serve() as port:
        head, _ = await talk(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * (MAX_PIPELINED + 2))
    assert head == ""


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serve() as port:
        _, body = await talk(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + GET)
    assert body.count(b"HTTP/1.1 200 OK") == 2


async def test_a_stream_to_an_http_1_0_client_has_no_chunk_sizes_and_ends_with_the_connection() -> None:
    async with serve() as port:
        head, body = await talk(port, b"GET / HTTP/1.0\r\n\r\n")
    assert "transfer-encoding" not in head
    assert body == b"data: one\n\ndata: two\n\n"


async def test_a_stream_to_an_http_1_1_client_has_chunks() -> None:
    async with serve() as port:
        head, _ = await talk(port, GET)
    assert "transfer-encoding: chunked" in head


async def test_a_websocket_upgrade_is_answered_as_plain_http() -> None:
    async with serve() as port:
        head, _ = await talk(port, GET[:-2].replace(b"close", b"close, upgrade") + b"Upgrade: websocket\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")


async def test_a_client_that_is_refused_while_it_uploads_gets_the_response() -> None:
    """A connection that is closed with unread bytes is reset, and the response is lost."""
    async with serve(refuse) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(30):
            writer.write(b"x" * 100_000)
            await writer.drain()
        response = await asyncio.wait_for(reader.readuntil(b"full"), 5)
        writer.close()
    assert response.startswith(b"HTTP/1.1 503 ")
