"""What the attack tests share: requests sent at once, connections held open, memory of the service's processes."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.cluster.conftest import Service

figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO

CHAT = "/v1/chat/completions"
MIB = 2**20
LEFT = 0  # the status of a request whose sender did not wait for the response


def post(service: Service, count: int, timeout_s: float = 120.0, **request: Any) -> Counter[int]:
    """How often each status came, of requests that are sent at once."""
    return post_each(service, [request] * count, timeout_s)


def post_each(service: Service, requests: list[dict[str, Any]], timeout_s: float = 120.0) -> Counter[int]:
    """How often each status came, of these requests, sent at once; `LEFT` for those whose sender stopped waiting."""

    def one(request: dict[str, Any]) -> int:
        with service.client(timeout_s) as client:
            try:
                return client.post(**{"url": CHAT, **request}).status_code
            except httpx.TimeoutException:
                return LEFT

    with ThreadPoolExecutor(len(requests)) as pool:
        return Counter(pool.map(one, requests))


def open_connection(service: Service, data: bytes, receive_buffer: int | None = None) -> socket.socket:
    url = urlsplit(service.base_url)
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(30)
    connection.connect((url.hostname, url.port))
    connection.sendall(data)
    return connection


@contextmanager
def held(service: Service, data: bytes, count: int, receive_buffer: int | None = None) -> Iterator[list[socket.socket]]:
    """Connections on which this was sent; closed at the end."""
    connections: list[socket.socket] = []
    try:
        for number in range(count):
            connections.append(open_connection(service, data, receive_buffer))
            if number % 50 == 49:
                time.sleep(0.05)  # the number of connections is the attack, not their rate
        yield connections
    finally:
        for connection in connections:
            connection.close()


def status_of(connection: socket.socket) -> int:
    connection.settimeout(40)
    return int(connection.recv(64).split(b" ")[1])


@contextmanager
def watched_memory(service: Service, attack: str) -> Iterator[None]:
    """Logs the memory of all processes before the block, at the most, and a moment after it."""
    before = service.memory()
    most, ended = dict(before), threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for name, size in service.memory().items():
                most[name] = max(most[name], size)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
    after = service.memory()
    sizes = (f"{name} {before[name] // MIB}, {most[name] // MIB}, {after[name] // MIB}" for name in before)
    figures.info(f"{attack}: MiB before, at the most, after: {'; '.join(sizes)}")


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    limit = time.monotonic() + limit_s
    while not condition() and time.monotonic() < limit:
        time.sleep(1)
    return condition()
