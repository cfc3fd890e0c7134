"""One client cannot stop the others: attacks on the running service, with a bystander who goes on using it.

Each attack held everybody up, for seconds to minutes, or made the service fail, before it was bounded.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.cluster.bystander import Bystander, bystander
from tests.cluster.conftest import Service

pytestmark = pytest.mark.cluster

CHAT = "/v1/chat/completions"
REPLICAS = ("glm:ingress", "glm:preprocess")


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> Bystander:
    """What the machine gives without an attack; it may be busy with other tests."""
    with bystander(service.base_url, least_s=5.0) as one:
        pass
    return one


def open_connection(service: Service, data: bytes) -> socket.socket:
    url = urlsplit(service.base_url)
    connection = socket.create_connection((url.hostname, url.port), timeout=30)
    connection.sendall(data)
    return connection


@contextmanager
def held(service: Service, data: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Connections on which a request was begun and not ended."""
    connections = [open_connection(service, data) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def status_of(connection: socket.socket) -> int:
    connection.settimeout(40)
    return int(connection.recv(64).split(b" ")[1])


def post(service: Service, count: int, **request: Any) -> Counter[int]:
    """How often each status came, of requests that are sent at once."""

    def one(_: int) -> int:
        with service.client() as client:
            return client.post(**request).status_code

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(one, range(count)))


def memory(service: Service) -> int:
    """Bytes of the ingress and preprocess replicas, without the object store, whose size is fixed."""
    processes = psutil.Process(service.process.pid).children(recursive=True)
    replicas = [each for each in processes if any(name in " ".join(each.cmdline()) for name in REPLICAS)]
    assert len(replicas) == len(REPLICAS)
    return sum(each.memory_full_info().uss for each in replicas)


def test_unfinished_bodies_take_no_place_in_the_service(service: Service, undisturbed: Bystander):
    """1,100 of them stopped every route, health included, until they closed."""
    begun = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    with bystander(service.base_url, undisturbed), held(service, begun, 1100) as connections:
        assert status_of(connections[0]) == 408
        assert status_of(connections[-1]) == 408  # after http.body_grace_s


def test_unfinished_headers_do_not_use_up_the_connections(service: Service, undisturbed: Bystander):
    with (
        bystander(service.base_url, undisturbed),
        held(service, b"POST / HTTP/1.1\r\nHost: localhost\r\nA: ", 2500) as connections,
    ):
        assert status_of(connections[0]) == 408


def test_headers_without_an_end_are_refused(service: Service, undisturbed: Bystander):
    """80 MiB of headers got a 200."""
    with bystander(service.base_url, undisturbed):
        connection = open_connection(service, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 2**20)
        assert status_of(connection) == 431


def test_wrong_items_without_number_are_refused_at_once(service: Service, undisturbed: Bystander):
    """2 million of them took 3 GiB and 14 s."""
    body = json.dumps({"messages": [1] * 900_000})
    with bystander(service.base_url, undisturbed):
        before = memory(service)
        assert set(post(service, 4, url=CHAT, content=body)) == {400}
        assert memory(service) - before < 600 * 2**20


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "unicode_escape"])
def test_a_form_does_not_choose_its_charset(service: Service, undisturbed: Bystander, charset: str):
    """`punycode` with 1 MB of text held everybody for 23 s; others gave a 500."""
    body = b'--b\r\nContent-Disposition: form-data; name="question"\r\n\r\n' + b"a-" * 500_000 + b"\r\n--b--\r\n"
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    with bystander(service.base_url, undisturbed, 3.0):
        assert set(post(service, 2, url="/v1/ask", content=body, headers=headers)) == {415}


def test_large_bodies_at_once_are_refused_and_their_memory_comes_back(service: Service, undisturbed: Bystander):
    """20 bodies of 60 MiB took 1.8 GiB, and the ingress kept 3.7 GiB for 20 minutes."""
    url = "data:image/png;base64," + "A" * (40 * 2**20)
    body = json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]})
    before = memory(service)
    with bystander(service.base_url, undisturbed):
        statuses = post(service, 12, url=CHAT, content=body)
    assert set(statuses) <= {400, 413, 503}
    limit = time.monotonic() + 60
    while memory(service) > before + 150 * 2**20 and time.monotonic() < limit:
        time.sleep(1)
    assert memory(service) <= before + 150 * 2**20


@pytest.mark.parametrize(
    "header",
    [
        ("X-Request-ID", b"\xff"),
        ("X-Request-ID", b"a\x1b[31m"),
        ("X-Request-ID", b"a" * 10_000),
        ("X-Request-Timeout-Seconds", b"\xff"),
        ("X-Request-Timeout-Seconds", b"0.001"),
        ("X-Request-Disconnect-Disabled", b"\xff"),
        ("serve_multiplexed_model_id", b"\xff"),
        ("X-Session-Id", b"\xff"),
        ("traceparent", b"\xff"),
    ],
    ids=lambda header: f"{header[0]}={header[1][:12]!r}",
)
def test_no_header_makes_the_service_fail(service: Service, header: tuple[str, bytes]):
    with service.client() as client:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        response = client.post(CHAT, json=body, headers=[(header[0].encode(), header[1])])
    if b"\x1b" in header[1]:  # the parser of HTTP refuses control characters
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    else:
        assert response.status_code == 200
        assert len(response.headers["x-request-id"]) <= 128


def test_other_forms_of_http_get_errors_in_the_shape_of_the_api(service: Service):
    requests = {
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n": {400, 404, 405},
        b"GARBAGE\r\n\r\n": {400},
        b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\n\r\n": {
            404
        },
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n": {400},
    }
    for data, statuses in requests.items():
        connection = open_connection(service, data)
        response = b""
        while piece := connection.recv(65536):
            response += piece
        head, _, body = response.partition(b"\r\n\r\n")
        assert int(head.split(b" ")[1]) in statuses, head
        if b"chunked" not in head:
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_ray_serves_own_proxy_serves_nothing(service: Service):
    """It listened on a second port, without our limits."""
    processes = psutil.Process(service.process.pid).children(recursive=True)
    (proxy,) = [each for each in processes if "ProxyActor" in " ".join(each.cmdline())]
    listening = [each.laddr for each in proxy.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    statuses = []
    for address in listening:
        try:
            statuses.append(httpx.get(f"http://127.0.0.1:{address.port}/v1/models", timeout=3).status_code)
        except httpx.HTTPError:
            continue  # not HTTP: Ray's gRPC, which takes a token
    assert statuses == [404]


def test_more_requests_than_the_service_can_do_are_refused_at_once_and_the_others_are_answered(
    service: Service,
):
    """How fast they are refused is measured by `benchmarks/overload.py`."""
    fields = {"max_tokens": 16, "temperature": 0, "ignore_eos": True}
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], **fields})

    async def overload() -> Counter[int]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=service.base_url, timeout=300, limits=limits) as client:
            sent = []
            for _ in range(90):  # 900 requests in nine seconds
                sent += [asyncio.create_task(client.post(CHAT, content=body)) for _ in range(10)]
                await asyncio.sleep(0.1)
            responses = await asyncio.gather(*sent)
        assert all("retry-after" in response.headers for response in responses if response.status_code == 503)
        return Counter(response.status_code for response in responses)

    statuses = asyncio.run(overload())
    assert set(statuses) == {200, 503}
    assert statuses[200] >= 200
