"""Callbacks of chat platforms at the HTTP server: passed on before authentication, within limits of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from serve_app.access.key_file import add_key, new_key
from serve_app.callbacks import Callback, CallbackReply
from serve_app.ingress.outer_middlewares import outer_middlewares, wrap
from serve_app.settings import Settings
from tests.fakes import FakeAnswer, FakeMeter
from tests.ingress.client import make_app


class FakeBots:
    """Replies to callbacks and keeps them; with `late` it does not reply."""

    def __init__(self, *, late: bool = False) -> None:
        self.received: list[Callback] = []
        self._late = late

    async def __call__(self, callback: Callback) -> CallbackReply:
        self.received.append(callback)
        if self._late:
            raise TimeoutError
        return CallbackReply(b'{"ok":true}', "application/json")


@asynccontextmanager
async def client_of(
    bots: FakeBots | None, meter: FakeMeter | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    middlewares = outer_middlewares(
        Settings.model_validate(settings),
        meter or FakeMeter(),
        frozenset(),
        host="127.0.0.1",
        clock=asyncio.get_running_loop().time,
        new_id=lambda: "id",
        respond_to_callback=bots,
    )
    app = wrap(make_app(FakeAnswer("Two")), middlewares)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
        yield client


async def test_a_callback_reaches_the_bots_with_its_query_and_body_and_needs_no_key(tmp_path: Path):
    _, entry = new_key("shop")
    add_key(tmp_path / "keys.json", entry)
    bots, meter = FakeBots(), FakeMeter()
    async with client_of(bots, meter, access={"keys_file": str(tmp_path / "keys.json")}) as client:
        response = await client.post("/bots/wecom/bot?nonce=1&echostr=a%2Bb", content=b"{}")
        assert (response.status_code, response.json()) == (200, {"ok": True})
        assert response.headers["content-type"] == "application/json"
        (callback,) = bots.received
        assert (callback.path, callback.method, callback.body) == ("wecom/bot", "POST", b"{}")
        assert callback.query == {"nonce": "1", "echostr": "a+b"}
        assert (await client.post("/v1/chat/completions", json={})).status_code == 401
        assert meter.counts["glm_requests_total", "/bots/{bot}", "200"] == 1


async def test_a_body_of_two_megabytes_and_other_methods_are_refused_before_the_bots_see_them():
    bots = FakeBots()
    async with client_of(bots) as client:
        response = await client.post("/bots/wecom/bot", content=bytes(2 * 2**20))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        assert (await client.put("/bots/wecom/bot")).status_code == 405
        assert not bots.received


async def test_bots_that_do_not_respond_in_time_are_a_503_so_that_the_platform_sends_again():
    async with client_of(FakeBots(late=True)) as client:
        assert (await client.post("/bots/wecom/bot", content=b"{}")).status_code == 503


async def test_a_service_without_bots_has_no_such_route():
    async with client_of(None) as client:
        assert (await client.post("/bots/wecom/bot", content=b"{}")).status_code == 404


async def test_callbacks_pass_a_service_that_refuses_requests_because_of_its_load():
    bots = FakeBots()
    async with client_of(bots, engine={"max_slots": 1, "max_waiting": 0}) as client:
        replies = await asyncio.gather(*(client.post("/bots/wecom/bot", content=b"{}") for _ in range(20)))
        assert {reply.status_code for reply in replies} == {200}


async def test_callbacks_reach_the_bots_where_serves_own_proxy_takes_the_request():
    """Behind HAProxy, it calls the application without the outer middlewares while no ingress replica is known."""
    bots = FakeBots()
    transport = httpx.ASGITransport(make_app(FakeAnswer("Two"), respond_to_callback=bots))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        assert (await client.post("/bots/wecom/bot", content=b"{}")).status_code == 200
