"""deploy/nginx.conf and deploy/Caddyfile before the real HTTP app: keys, names, streams, limits, and no service."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from serve_app.access.key_file import add_key, new_key
from tests.app_server import serve_app_on_free_port
from tests.deploy.proxy import DEPLOY, NAME, Proxy, running
from tests.fakes import FakeAnswer
from tests.ingress.client import chat, make_app

KINDS = ("nginx", "caddy")


@pytest.fixture
def key(tmp_path: Path) -> str:
    secret, entry = new_key("shop")
    add_key(tmp_path / "keys.json", entry)
    return secret


@pytest.fixture
def answer() -> FakeAnswer:
    return FakeAnswer("Two ", "cats", hold_after=2)


@pytest.fixture
async def upstream(tmp_path: Path, key: str, answer: FakeAnswer) -> AsyncIterator[str]:
    """The app on loopback with the settings of deploy/glm-serve.env: its name, and keys."""
    app = make_app(answer, settings={"allowed_hosts": [NAME]}, access={"keys_file": str(tmp_path / "keys.json")})
    async with serve_app_on_free_port(app) as url:
        yield url.removeprefix("http://")
        answer.release.set()


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest, tmp_path: Path, upstream: str) -> Iterator[Proxy]:
    with running(request.param, tmp_path, upstream) as one:
        yield one


def client(proxy: Proxy, key: str = "") -> httpx.AsyncClient:
    """A client that takes the test's certificate and asks for the service's name."""
    headers = {"Host": NAME, **({"Authorization": f"Bearer {key}"} if key else {})}
    return httpx.AsyncClient(base_url=proxy.url, verify=False, headers=headers, timeout=30)


def sni() -> dict[str, str]:
    return {"sni_hostname": NAME}


async def test_a_stream_passes_text_by_text_and_a_key_is_needed(proxy: Proxy, key: str, answer: FakeAnswer) -> None:
    async with client(proxy) as anonymous:
        refused = await anonymous.post("/v1/chat/completions", json=chat(), extensions=sni())
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    async with client(proxy, key) as shop:
        request = shop.build_request("POST", "/v1/chat/completions", json=chat(stream=True), extensions=sni())
        response = await shop.send(request, stream=True)
        assert response.status_code == 200
        received = ""
        async for line in response.aiter_lines():
            received += line
            if "Two " in received:
                answer.release.set()  # the model continues only when the first text is here
        assert "cats" in received
        assert received.endswith("[DONE]")


async def test_metrics_are_not_published(proxy: Proxy, key: str) -> None:
    async with client(proxy, key) as shop:
        assert (await shop.get("/metrics", extensions=sni())).status_code == 404


async def test_nginx_refuses_a_large_body_before_it_is_sent(tmp_path: Path, upstream: str, key: str) -> None:
    with running("nginx", tmp_path, upstream) as proxy:
        async with client(proxy, key) as shop:
            large = await shop.post("/v1/chat/completions", content=b" " * (64 * 2**20 + 1), extensions=sni())
            assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")


async def test_nginx_limits_an_address_and_says_so_in_the_form_of_the_service(
    tmp_path: Path, upstream: str, key: str
) -> None:
    with running("nginx", tmp_path, upstream) as proxy:
        async with client(proxy) as anyone:
            sent = [anyone.get("/healthz", extensions=sni()) for _ in range(80)]
            responses = await asyncio.gather(*sent)
            statuses = [response.status_code for response in responses]
            assert {200, 429} == set(statuses)
            assert statuses.count(200) >= 15  # a page with its files loads
            limited = responses[statuses.index(429)]
            assert limited.headers["retry-after"] == "1"
            assert limited.json()["error"]["code"] == "rate_limit_exceeded"


async def test_nginx_says_that_the_service_does_not_run(tmp_path: Path) -> None:
    with running("nginx", tmp_path, "127.0.0.1:9") as proxy:
        async with client(proxy) as anyone:
            response = await anyone.get("/v1/models", extensions=sni())
            assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
            assert response.headers["retry-after"] == "5"
            plain = await anyone.get(f"http://127.0.0.1:{proxy.plain_port}/docs")
            assert (plain.status_code, plain.headers["location"]) == (308, f"https://{NAME}/docs")


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_is_valid_with_no_warning(kind: str, tmp_path: Path) -> None:
    checked = subprocess.run(Proxy(kind, tmp_path, "127.0.0.1:9").check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr


def test_the_errors_that_nginx_writes_have_the_fields_of_the_service() -> None:
    bodies = [
        line.partition("'")[2].rpartition("'")[0]
        for line in (DEPLOY / "nginx.conf").read_text().splitlines()
        if "return" in line and "'" in line
    ]
    assert len(bodies) == 3
    for body in bodies:
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
