"""Methods and paths as clients send them: HEAD, trailing and doubled slashes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serve_app.ingress.outer_middlewares import WRAPPED, outer_middlewares, wrap
from serve_app.settings import Settings
from tests.fakes import FakeMeter
from tests.ingress.client import MODEL, MakeClient, chat

GET_PATHS = ["/", "/healthz", "/readyz", "/health", "/metrics", "/v1/models", f"/v1/models/{MODEL}", "/docs"]


@pytest.mark.parametrize("path", [*GET_PATHS, "/openapi.json"])
async def test_head_has_the_status_and_headers_of_get(make_client: MakeClient, path: str) -> None:
    """Uptime monitors ask with HEAD."""
    client = make_client()
    got, asked = await client.get(path), await client.head(path)
    assert (asked.status_code, asked.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert asked.headers[name] == got.headers[name]


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/v1/chat/completions"])
async def test_a_server_sends_no_body_to_head(serving: Callable[..., Any], path: str) -> None:
    address = urlsplit(await serving())
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert body == b""
    assert head.split(b" ")[1] == {"/healthz": b"200", "/nowhere": b"404"}.get(path, b"405")


@pytest.mark.parametrize("path", [path for path in GET_PATHS if path != "/"])
async def test_a_path_may_end_with_a_slash(make_client: MakeClient, path: str) -> None:
    client = make_client()
    assert (await client.get(f"{path}/")).content == (await client.get(path)).content


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1//chat/completions", "/v1/chat/completions//"])
async def test_slashes_of_a_base_url_do_not_matter(make_client: MakeClient, path: str) -> None:
    assert (await make_client().post(path, json=chat())).status_code == 200


async def test_two_slashes_may_begin_a_path(serving: Callable[..., Any]) -> None:
    address = urlsplit(await serving())
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"GET //v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_path_that_is_not_there_is_named(make_client: MakeClient) -> None:
    response = await make_client().get("/v1/nothing/")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert "/v1/nothing" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "wrapped"),
    [("/-/healthz", False), ("/-/routes", False), ("/-/other", True), ("/-/healthz/", True), ("/-/routes%0A", True)],
)
async def test_only_the_two_routes_of_ray_serve_go_past_the_outer_middlewares(path: str, wrapped: bool) -> None:
    passed = []

    async def ray_serve(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(WRAPPED not in scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"success"})

    outer = outer_middlewares(Settings(), FakeMeter(), (), host="127.0.0.1", clock=time.monotonic, new_id=lambda: "id")
    transport = httpx.ASGITransport(wrap(ray_serve, outer))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        await client.get(path)
    assert (True in passed) is not wrapped
