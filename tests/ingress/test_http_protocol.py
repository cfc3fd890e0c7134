"""The limits on connections and headers, over real sockets; how HTTP/1.0 clients get streams."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serve_app.ingress.http_protocol import MAX_PIPELINED, ConnectionLimits, bounded_protocol

LIMITS = ConnectionLimits(
    header_timeout_s=0.3, max_header_bytes=4096, max_headers=20, max_connections=4, send_timeout_s=0.5
)
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE_BYTES = 20_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Two pieces without a content length."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"data: one\n\n", b"data: two\n\n", b""):
        await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """More than the system's buffers of a connection hold."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for left in range(LARGE_BYTES - 100_000, -1, -100_000):
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": left > 0})


async def read_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds when the body is complete, as the application does."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.request":
        await refuse(scope, receive, send)


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


@pytest.mark.parametrize("path", ["/v1/messages", "//v1/messages/?beta=true"])
async def test_a_refusal_on_anthropics_path_has_its_shape(path: str) -> None:
    async with serve() as port:
        large = await talk(
            port, f"POST {path} HTTP/1.1\r\nHost: a\r\nX-Request-ID: one\r\nA: {'a' * 5000}\r\n\r\n".encode()
        )
        late = await talk(port, f"POST {path} HTTP/1.1\r\nHost: a\r\nX-Request-ID: two\r\nA: a".encode())
    for (head, body), status, id in ((large, "431", "one"), (late, "408", "two")):
        reply = json.loads(body)
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert (reply["type"], reply["error"]["type"], reply["request_id"]) == ("error", "invalid_request_error", id)


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
    async with serve(limits=replace(LIMITS, header_timeout_s=30.0)) as port:
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


async def test_a_pipelined_request_in_progress_is_cancelled_when_its_client_disconnects() -> None:
    disconnected = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await refuse(scope, receive, send)  # is dropped: there is no connection to write to
        disconnected.set()

    async with serve(wait) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        await asyncio.sleep(0.1)
        writer.close()
        await asyncio.wait_for(disconnected.wait(), 5)


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


H2C = b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
LENGTH, CHUNKS = b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("framed", [LENGTH, CHUNKS])
@pytest.mark.parametrize("cut", [1, 20, 60, -20, -2, None])
async def test_the_body_of_a_request_to_upgrade_to_http_2_is_read(framed: bytes, cut: int | None) -> None:
    """As Java's HttpClient asks each server first: the body was lost, and read as another request."""
    data = b"POST / HTTP/1.1\r\n" + H2C + framed
    async with serve(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data[:cut])
        await asyncio.sleep(0.05)
        writer.write((data[cut:] if cut else b"") + data + GET)  # two more on the same connection
        response = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert response.count(b"HTTP/1.1 200 OK") == 3
    assert response.count(b"\r\n\r\nhello") == 2


async def test_requests_to_upgrade_are_limited_as_others() -> None:
    many = (b"GET / HTTP/1.1\r\n" + H2C + b"\r\n") * 500
    async with serve(echo) as port:
        _, response = await talk(port, many)
        head, body = await talk(port, b"GET / HTTP/1.1\r\n" + H2C + b"X: y\r\n" * 30 + b"\r\n")
    assert response.count(b"HTTP/1.1 200 OK") <= MAX_PIPELINED + 1
    assert (head.startswith("HTTP/1.1 431 "), code(body)) == (True, "headers_too_large")


async def test_a_tunnel_is_refused() -> None:
    async with serve() as port:
        head, _ = await talk(port, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ")


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


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_a_refusal_before_the_body_has_arrived_is_the_only_response_and_is_not_lost(connection: str) -> None:
    """Of 11,400 refusals under overload, 69 were lost: uvicorn closes `Connection: close` at once."""
    async with serve(refuse) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nContent-Length: 300000\r\n\r\n"
        writer.write(head.encode())
        await asyncio.sleep(0.1)  # the response is sent
        for _ in range(3):
            writer.write(b"x" * 100_000)
            await asyncio.sleep(0.05)
        response = await asyncio.wait_for(reader.read() if connection == "close" else reader.readuntil(b"full"), 5)
        if connection == "keep-alive":  # the connection serves the next request
            writer.write(GET)
            response = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert response.count(b"HTTP/1.1 503 ") == response.count(b"HTTP/1.1 ") == 1


async def test_a_client_that_does_not_read_its_response_is_disconnected() -> None:
    """It held its place in the service for ever."""
    async with serve(large) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET)
        await asyncio.sleep(1.5)
        response = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert 0 < len(response) < LARGE_BYTES


async def test_a_client_that_reads_slowly_gets_the_complete_response() -> None:
    async with serve(large) as port:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # the server goes on at each read
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=65_536)
        writer.write(GET)
        size = 0
        while piece := await reader.read(2**20):
            size += len(piece)
            await asyncio.sleep(0.02)
        writer.close()
    assert size > LARGE_BYTES


@pytest.mark.parametrize("app", [stream, large], ids=["idle", "unread"])
async def test_connections_that_wait_for_their_clients_make_room_for_new_ones(app: object) -> None:
    async with serve(app, replace(LIMITS, send_timeout_s=30.0)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(4)]
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.5)
        head, _ = await talk(port, GET)
        if app is stream:
            assert (await held[0][0].read()).endswith(b"0\r\n\r\n")  # an orderly end, no reset
        for _, writer in held:
            writer.close()
    assert head.startswith("HTTP/1.1 200 ")


async def test_a_body_in_very_small_chunks_is_refused() -> None:
    async with serve(read_body) as port:
        head, body = await talk(port, CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ")
    assert "chunks" in json.loads(body)["error"]["message"]


async def test_a_short_body_in_very_small_chunks_is_read() -> None:
    async with serve(read_body) as port:
        head, _ = await talk(port, CHUNKED + b"1\r\nx\r\n" * 5_000 + b"0\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 ")


async def test_a_tunnel_on_a_connection_that_is_closing_is_not_read_again() -> None:
    """It was fed to the parser again and again until the recursion limit."""

    async def answer_early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with serve(answer_early) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"helloCONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert not failures
