"""One client cannot stop the others: attacks on the running service, with a bystander who goes on using it.

Each attack held everybody up, for seconds to minutes, or made the service fail, before it was bounded.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.cluster.attacks import CHAT, MIB, held, open_connection, post, status_of, wait_until, watched_memory
from tests.cluster.bystander import Bystander, bystander
from tests.cluster.conftest import Service

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def _memory(service: Service, request: pytest.FixtureRequest) -> Iterator[None]:
    with watched_memory(service, request.node.name):
        yield


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
        before = service.memory()["ingress"]
        assert set(post(service, 4, content=body)) == {400}
        assert service.memory()["ingress"] - before < 600 * MIB


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
    before = service.memory()
    with bystander(service.base_url, undisturbed):
        statuses = post(service, 12, content=body)
    assert set(statuses) <= {400, 413, 503}
    for name in ("ingress", "preprocess"):
        assert wait_until(lambda name=name: service.memory()[name] <= 1.1 * before[name] + 16 * MIB, 60), name  # type: ignore[misc]


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
    (proxy,) = service.processes("ProxyActor")
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


def test_idle_connections_make_room_for_others(service: Service, undisturbed: Bystander):
    """2,500 clients that keep their connections after a response refused everybody else."""
    asked = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with bystander(service.base_url, undisturbed), held(service, asked, 2500):
        pass


def test_many_get_requests_hold_nobody_up(service: Service, undisturbed: Bystander):
    """Each scrape of /metrics takes 0.1 s of CPU; those at the same time share one."""
    paths = ("/metrics", "/v1/models", "/readyz", "/openapi.json")

    def ask(number: int) -> int:
        with service.client() as client:
            return client.get(paths[number % len(paths)]).status_code

    with bystander(service.base_url, undisturbed), ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(200))) <= {200, 503}


def test_bodies_of_one_byte_a_chunk_are_refused(service: Service, undisturbed: Bystander):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with bystander(service.base_url, undisturbed), held(service, head + b"1\r\n \r\n" * 15_000, 8) as connections:
        assert {status_of(connection) for connection in connections} == {400}


def test_many_pipelined_requests_hold_nobody_up(service: Service, undisturbed: Bystander):
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 16
    with bystander(service.base_url, undisturbed), held(service, asked, 100, receive_buffer=2048):
        pass


def test_clients_that_never_read_their_streams_hold_nobody_up(service: Service, undisturbed: Bystander):
    fields = {"max_tokens": 600, "ignore_eos": True, "stream": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], **fields}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with bystander(service.base_url, undisturbed), held(service, head + body, 4, receive_buffer=2048):
        pass


@pytest.mark.parametrize("part", ["field", "file", "header"])
def test_a_form_of_100_000_parts_is_refused(service: Service, undisturbed: Bystander, part: str):
    one = b'--b\r\nContent-Disposition: form-data; name="a"'
    ended = {
        "field": b"\r\n\r\nx\r\n",
        "file": b'; filename="x"\r\n\r\nx\r\n',
        "header": b"\r\nX: y" * 50 + b"\r\n\r\n\r\n",
    }
    body = (one + ended[part]) * 100_000 + b"--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with bystander(service.base_url, undisturbed, 3.0):
        assert set(post(service, 4, url="/v1/ask", content=body, headers=headers)) == {400}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(2000)]},
        {"stop": [f"stop {n}" for n in range(10_000)]},
        {"logit_bias": {str(n): 1 for n in range(1_000_000)}},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 4500},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 10_000}]},
        {"messages": [{"role": "user", "content": "<|image|>" * 500_000}]},
        {"messages": [{"role": "user", "content": "word " * 1_600_000}]},
        {"messages": [{"role": "user", "content": "a" * 8_000_000}]},
    ],
    ids=["tools", "stop", "logit_bias", "messages", "parts", "special tokens", "words", "one word"],
)
def test_bodies_that_are_too_long_in_any_way_are_refused_at_once(
    service: Service, undisturbed: Bystander, fields: dict[str, object]
):
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], **fields})
    with bystander(service.base_url, undisturbed):
        assert set(post(service, 8, content=body)) <= {400, 413}
