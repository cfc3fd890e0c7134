"""`glm-serve wecom check` and `glm-serve wecom simulate`."""

from __future__ import annotations

import argparse
import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve_app.bots.conversation.state import MemoryState
from serve_app.bots.service import BotService
from serve_app.bots.wecom import check
from serve_app.bots.wecom.crypto import Crypto
from serve_app.bots.wecom.simulate import play
from serve_app.callbacks import MAX_CALLBACK_BYTES, Callback
from serve_app.settings import Settings
from tests.bots.bench import KEY, TOKEN, Clock, settings
from tests.fakes import FakeAnswer, FakeMeter
from tests.ingress.client import PNG
from tests.ports import free_port


@asynccontextmanager
async def listening(service: BotService) -> AsyncIterator[str]:
    """The bots' routes on a port of this machine, as the HTTP server has them; returns their address."""

    async def respond(request: Request) -> Response:
        body = await request.body()
        if len(body) > MAX_CALLBACK_BYTES:
            return Response(status_code=413)
        callback = Callback(request.path_params["path"], request.method, dict(request.query_params), {}, body)
        reply = await service.respond(callback)
        return Response(reply.body, reply.status, media_type=reply.content_type)

    app = Starlette(routes=[Route("/bots/{path:path}", respond, methods=["GET", "POST"])])
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    running = asyncio.create_task(server.main_loop())
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running
    await server.shutdown()


async def simulated(folder: Path, *, token: str = TOKEN, expect: str = "", answer: str = "4711") -> tuple[int, str]:
    """Exit status and output of the simulator, against bots over a fake model."""
    port, clock = free_port(), Clock()
    wecom = {"picture_hosts": [f"http://127.0.0.1:{port}"], "api_url": f"http://127.0.0.1:{port}"}
    state = MemoryState(clock)
    service = BotService(settings(folder, wecom=wecom), FakeAnswer(answer), meter=FakeMeter(), state=state)
    async with listening(service) as url:
        options = argparse.Namespace(url=url, port=port, question="Which number?", expect=expect, chats=3)
        output = io.StringIO()
        status = await play(options, Crypto(token, KEY), PNG, output)
    await service.stop()
    return status, output.getvalue()


async def test_the_simulator_passes_against_bots_that_work(tmp_path: Path):
    status, output = await simulated(tmp_path, expect="4711")
    assert (status, output.splitlines()[-1]) == (0, "All checks passed.")
    assert output.count("ok      ") == 13
    for secret in (TOKEN, KEY):
        assert secret not in output


async def test_the_simulator_says_what_fails(tmp_path: Path):
    status, output = await simulated(tmp_path, token="another")
    assert status == 1
    assert "FAILED  callback address: UnexpectedReply: URL verification got status 403." in output
    status, output = await simulated(tmp_path, expect="9999")
    assert status == 1
    assert "The answer does not contain '9999': '4711'" in output


def checked(given: Settings) -> tuple[int, str]:
    output = io.StringIO()
    status = check.run(argparse.Namespace(offline=True, subscribe=False), given, output)
    return status, output.getvalue()


def test_the_check_accepts_settings_that_work(tmp_path: Path):
    status, output = checked(settings(tmp_path))
    assert status == 0
    assert "https://YOUR-HOST/bots/wecom/bot" in output
    assert "problem" not in output
    assert KEY not in output


@pytest.mark.parametrize(
    ("bots", "file", "content", "text"),
    [
        ({"enabled": False}, "token", TOKEN, "bots.enabled is false"),
        ({}, "aes_key", "short", "wecom.aes_key_file: The AES key has 5 characters; it must have 43."),
        ({}, "token", "", "is empty"),
    ],
)
def test_the_check_names_the_setting_that_is_wrong(
    tmp_path: Path, bots: dict[str, Any], file: str, content: str, text: str
):
    given = settings(tmp_path, bots=bots)
    (tmp_path / file).write_text(content)
    status, output = checked(given)
    assert status == 1
    assert text in output


def test_the_check_finds_a_missing_file_and_missing_robots(tmp_path: Path):
    given = settings(tmp_path)
    (tmp_path / "token").unlink()
    assert "can't be read: FileNotFoundError" in checked(given)[1]
    assert "No robot is set" in checked(Settings.model_validate({"bots": {"enabled": True}}))[1]


async def long_connection_checked(folder: Path, url: str) -> check.Finding:
    (folder / "secret").write_text("the-secret")
    wecom = {"bot": "long_connection", "bot_id": "b", "bot_secret_file": str(folder / "secret"), "socket_url": url}
    given = Settings.model_validate({"bots": {"enabled": True}, "wecom": {**wecom, "picture_hosts": ["localhost"]}})
    *_, finding = await check.check_connections(given, subscribe=True)
    return finding


async def test_the_check_reports_an_address_without_a_websocket(tmp_path: Path):
    """A response such as 404 and an address that is no ws:// one ended in a traceback."""
    service = BotService(settings(tmp_path), FakeAnswer(), meter=FakeMeter(), state=MemoryState(Clock()))
    async with listening(service) as http:
        url = http.replace("http://", "ws://")
        found = await long_connection_checked(tmp_path, url)
    assert found.kind == "problem"
    assert found.text.startswith(f"The long connection to {url} failed: server rejected WebSocket connection: HTTP 4")
    await service.stop()


@pytest.mark.parametrize("url", ["https://openws.work.weixin.qq.com", "ws://127.0.0.1:port", "openws"])
async def test_the_check_reports_an_address_that_is_none_of_a_websocket(tmp_path: Path, url: str):
    found = await long_connection_checked(tmp_path, url)
    assert (found.kind, found.text.startswith(f"The long connection to {url} failed: ")) == ("problem", True)
