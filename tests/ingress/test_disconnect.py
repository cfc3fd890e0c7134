"""A caller who leaves stops the work: on a real connection, and when the server cancels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message

from serve_app.access.usage import GATHER_S
from serve_app.ingress.disconnect import stop_running_work
from tests.fakes import FakeAnswer, FakeMeter
from tests.ingress.client import PNG, MakeClient, chat, make_app, soon

CHAT, ASK = "/v1/chat/completions", "/v1/ask"
CANCELLED = ("glm_cancellations_total",)


def _body(path: str, stream: bool) -> dict[str, Any]:
    if path == CHAT:
        return {"json": chat(stream=stream)}
    return {"files": {"image": PNG}, "data": {"question": "What?", "stream": str(stream).lower()}}


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("path", [CHAT, ASK])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hold_after", [0, 1, 2])  # before Started, before the first text, amid the text
async def test_a_closed_connection_closes_the_answer_at_once(
    serving: Callable[..., Any], http: str, path: str, stream: bool, hold_after: int
) -> None:
    answer, meter = FakeAnswer("Two ", "cats", hold_after=hold_after), FakeMeter()
    url = await serving(answer, meter=meter, http=http)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(url + path, **_body(path, stream)))
        await asyncio.wait_for(answer.held.wait(), 5)
        asking.cancel()
        await soon(lambda: answer.running == 0)
        await soon(lambda: meter.counts[CANCELLED] == 1)
    assert answer.closed_early == 1
    assert meter.counts["glm_requests_total", path, "499"] == 1
    assert not any(key[0] == "glm_rejections_total" for key in meter.counts)


@pytest.mark.parametrize("path", [CHAT, ASK])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hold_after", [0, 2])
async def test_a_stop_ends_running_answers_with_an_error(
    serving: Callable[..., Any], path: str, stream: bool, hold_after: int
) -> None:
    """Serve kills the process after the grace period; clients saw a connection that broke."""
    answer, meter = FakeAnswer("Two ", "cats", hold_after=hold_after), FakeMeter()
    url = await serving(answer, meter=meter)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(url + path, **_body(path, stream)))
        await asyncio.wait_for(answer.held.wait(), 5)
        await asyncio.to_thread(stop_running_work)
        response = await asyncio.wait_for(asking, 5)  # complete: the body has its end
        assert answer.closed_early == 1
        if stream and hold_after:
            assert response.status_code == 200
            assert "The service was stopped before the answer was complete." in response.text
            assert response.text.endswith("data: [DONE]\n\n") == (path == CHAT)
        else:
            assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")
        assert meter.counts["glm_rejections_total", "engine_error"] == 1
        answer.release.set()
        assert (await client.post(url + path, **_body(path, stream))).status_code == 200


@pytest.mark.parametrize("path", [CHAT, ASK])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancelled_task_closes_the_answer_as_under_ray_serve(path: str, stream: bool) -> None:
    answer, meter = FakeAnswer("Two ", "cats", hold_after=2), FakeMeter()
    app = make_app(answer, meter=meter)
    request = httpx.Request("POST", f"http://localhost{path}", **_body(path, stream))
    body = request.read()
    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": body})
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http",
        "query_string": b"", "headers": headers, "server": ("test", 80), "client": ("127.0.0.1", 1),
        "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    handling = asyncio.create_task(app(scope, messages.get, send))
    await asyncio.wait_for(answer.held.wait(), 5)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert answer.closed_early == 1
    assert answer.running == 0
    assert meter.counts[CANCELLED] == 1
    assert meter.counts["glm_requests_total", path, "499"] == 1
    assert [message["type"] for message in sent[:1]] == (["http.response.start"] if stream else [])
    await asyncio.sleep(GATHER_S + 0.1)  # what the request used is gathered for so long
    assert len(asyncio.all_tasks()) == 1


async def test_a_connection_closed_after_the_end_is_not_a_cancellation(serving: Callable[..., Any]) -> None:
    answer, meter = FakeAnswer("Two "), FakeMeter()
    url = await serving(answer, meter=meter)
    async with httpx.AsyncClient() as client:
        await client.post(url + CHAT, json=chat(stream=True))
    await soon(lambda: meter.counts["glm_requests_total", CHAT, "200"] == 1)
    assert meter.counts[CANCELLED] == 0
    assert answer.closed_early == 0


async def test_a_client_that_disconnects_during_the_upload_starts_no_answer(serving: Callable[..., Any]) -> None:
    answer, meter = FakeAnswer("Two "), FakeMeter()
    url = httpx.URL(await serving(answer, meter=meter))
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await soon(lambda: meter.counts["glm_requests_total", CHAT, "499"] == 1)
    assert answer.requests == []
    assert meter.counts[CANCELLED] == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_work_that_is_stopped_from_inside_is_an_error_not_a_disconnect(
    make_client: MakeClient, stream: bool
) -> None:
    meter = FakeMeter()
    client = make_client(FakeAnswer("Two ", error=asyncio.CancelledError()), meter=meter)
    response = await client.post(CHAT, json=chat(stream=stream))
    assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")
    assert meter.counts[CANCELLED] == 0
