"""The AI bot by long connection, against a server that plays WeCom's side."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve

from serve_app.bots.conversation.pace import Pace
from serve_app.bots.conversation.texts import EN
from serve_app.bots.wecom.connection import Connection, NotSent
from tests.bots.bench import BOT, PLATFORM_URL, Bench, bench, pictures_of
from tests.fakes import FakeAnswer
from tests.ingress.client import PNG, soon

SECRET = "the-secret-of-the-bot"
FILE_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"


class FakeServer:
    """WeCom's side of the connection: acknowledges frames, keeps them, and sends callbacks."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.connections: list[ServerConnection] = []
        self.codes: list[int] = []  # error codes of the next replies
        self.answers_pings = True
        self.ignored: list[str] = []  # commands whose next frame is not acknowledged
        self.unacknowledged: set[str] = set()
        self.overlapping = 0  # frames of one request id that did not wait for the acknowledgement
        self.url = ""

    async def handle(self, socket: ServerConnection) -> None:
        self.connections.append(socket)
        async for data in socket:
            frame = orjson.loads(data)
            self.frames.append(frame)
            asyncio.get_running_loop().create_task(self._acknowledge(socket, frame))

    async def _acknowledge(self, socket: ServerConnection, frame: dict[str, Any]) -> None:
        command, request_id = frame["cmd"], frame["headers"]["req_id"]
        if command == "ping" and not self.answers_pings:
            return
        if command in self.ignored:
            self.ignored.remove(command)
            return
        self.overlapping += request_id in self.unacknowledged
        self.unacknowledged.add(request_id)
        await asyncio.sleep(0.01)
        self.unacknowledged.discard(request_id)
        code = 0
        if command == "aibot_subscribe":
            code = 0 if frame["body"] == {"bot_id": BOT, "secret": SECRET} else 40001
        elif command != "ping" and self.codes:
            code = self.codes.pop(0)
        await socket.send(orjson.dumps({"headers": {"req_id": request_id}, "errcode": code, "errmsg": "x"}).decode())

    async def send(self, command: str, body: dict[str, Any]) -> str:
        request_id = secrets.token_hex(8)
        frame = {"cmd": command, "headers": {"req_id": request_id}, "body": body}
        await self.connections[-1].send(orjson.dumps(frame).decode())
        return request_id

    async def ask(self, body: dict[str, Any]) -> str:
        return await self.send("aibot_msg_callback", body)

    def of(self, command: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["cmd"] == command]

    def contents(self, request_id: str) -> list[tuple[bool, str]]:
        streams = [
            frame["body"]["stream"]
            for frame in self.of("aibot_respond_msg")
            if frame["headers"]["req_id"] == request_id
        ]
        return [(stream["finish"], stream["content"]) for stream in streams]


@asynccontextmanager
async def connected(folder: Path, answer: Any, **fast: float) -> AsyncIterator[tuple[Bench, FakeServer]]:
    server = FakeServer()
    (folder / "secret").write_text(SECRET)
    async with serve(server.handle, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        wecom = {
            "bot": "long_connection",
            "bot_id": BOT,
            "bot_secret_file": str(folder / "secret"),
            "socket_url": f"ws://127.0.0.1:{port}",
        }
        server.url = wecom["socket_url"]
        timing = {"interval_s": 0.05, "retry_s": 0.05, "reconnect_s": (0.05, 0.1), **fast}
        async with bench(folder, answer, wecom=wecom, long_connection=timing) as one:
            await soon(lambda: bool(server.of("aibot_subscribe")))
            adapter: Any = one.service.adapters["wecom_bot"]
            await asyncio.wait_for(adapter.connection.subscribed.wait(), 5)
            yield one, server


async def test_an_answer_is_pushed_as_cumulative_frames_that_wait_for_each_other(tmp_path: Path):
    answer = FakeAnswer("It ", "is ", "4711", pause_s=0.03)
    async with connected(tmp_path, answer) as (one, server):
        url = one.platform.host(PNG, key=b"0123456789abcdef" * 2)
        image = {"url": url, "aeskey": FILE_KEY}
        request_id = await server.ask(one.platform.message("ann", msgtype="image", image=image))
        await soon(lambda: (True, "It is 4711") in server.contents(request_id))
        contents = server.contents(request_id)
        assert contents[0][0] is False
        assert all(finish is False for finish, _ in contents[:-1])
        assert len({frame["body"]["stream"]["id"] for frame in server.of("aibot_respond_msg")}) == 1
        assert server.overlapping == 0
        assert pictures_of(answer.requests[0]) == [PNG]


async def test_the_last_frame_does_not_wait_for_the_interval_between_frames(tmp_path: Path):
    """An answer of 0.3 s arrived after 4 s: the interval of 2 s passed twice."""
    interval_s = 20.0
    async with connected(tmp_path, FakeAnswer("It ", "is", pause_s=0.05), interval_s=interval_s) as (one, server):
        request_id = await server.ask(one.platform.text("ann", "What?"))
        await soon(lambda: (True, "It is") in server.contents(request_id))  # within 10 s
        assert len(server.contents(request_id)) == 2


async def test_the_same_message_twice_is_answered_once(tmp_path: Path):
    answer = FakeAnswer("Two")
    async with connected(tmp_path, answer) as (one, server):
        message = one.platform.text("ann", "How many?")
        first = await server.ask(message)
        await soon(lambda: (True, "Two") in server.contents(first))
        second = await server.ask(message)
        await asyncio.sleep(0.2)
        assert server.contents(second) == []
        assert len(answer.requests) == 1


@pytest.mark.parametrize("code", [846605, 846608])
async def test_a_reply_that_comes_too_late_is_sent_as_a_message(tmp_path: Path, code: int):
    async with connected(tmp_path, FakeAnswer("Two")) as (one, server):
        server.codes = [code]
        await server.ask(one.platform.text("ann", "How many?", chat="group"))
        await soon(lambda: bool(server.of("aibot_send_msg")))
        body = server.of("aibot_send_msg")[0]["body"]
        assert body == {"chatid": "group", "chat_type": 2, "msgtype": "markdown", "markdown": {"content": "Two"}}


async def test_after_five_and_a_half_minutes_the_rest_is_a_message(tmp_path: Path):
    answer = FakeAnswer("The beginning", " and the end.", hold_after=2)
    async with connected(tmp_path, answer, finish_s=0.3) as (one, server):
        request_id = await server.ask(one.platform.text("ann", "Tell me."))
        await soon(lambda: (True, "The beginning" + EN.continues) in server.contents(request_id))
        answer.release.set()
        await soon(lambda: bool(server.of("aibot_send_msg")))
        body = server.of("aibot_send_msg")[0]["body"]
        assert (body["chatid"], body["chat_type"], body["markdown"]["content"]) == ("ann", 1, " and the end.")


async def test_an_opened_chat_gets_the_welcome(tmp_path: Path):
    async with connected(tmp_path, FakeAnswer("Two")) as (_, server):
        event = {"msgid": "e", "aibotid": BOT, "from": {"userid": "ann"}, "msgtype": "event"}
        request_id = await server.send("aibot_event_callback", event | {"event": {"eventtype": "enter_chat"}})
        await soon(lambda: bool(server.of("aibot_respond_welcome_msg")))
        (frame,) = server.of("aibot_respond_welcome_msg")
        assert frame["headers"]["req_id"] == request_id
        assert frame["body"] == {"msgtype": "text", "text": {"content": EN.welcome}}


async def test_a_displaced_connection_is_not_opened_again(tmp_path: Path):
    async with connected(tmp_path, FakeAnswer("Two")) as (one, server):
        event = {"msgtype": "event", "event": {"eventtype": "disconnected_event"}}
        await server.send("aibot_event_callback", event)
        adapter: Any = one.service.adapters["wecom_bot"]
        await soon(lambda: adapter.connection.displaced)
        await asyncio.sleep(0.3)
        assert len(server.connections) == 1


async def test_a_lost_connection_is_opened_again_and_the_answer_continues(tmp_path: Path):
    answer = FakeAnswer("It is ", "4711", hold_after=2)
    async with connected(tmp_path, answer) as (one, server):
        request_id = await server.ask(one.platform.text("ann", "Which number?"))
        await soon(lambda: (False, "It is ") in server.contents(request_id))
        await server.connections[-1].close()
        await soon(lambda: len(server.connections) == 2)
        answer.release.set()
        await soon(lambda: (True, "It is 4711") in server.contents(request_id))


async def test_a_server_that_does_not_acknowledge_pings_is_connected_to_again(tmp_path: Path):
    async with connected(tmp_path, FakeAnswer("Two"), ping_s=0.05, ack_s=0.05) as (_, server):
        server.answers_pings = False
        await soon(lambda: len(server.connections) >= 2)
        assert "body" not in server.of("ping")[0]


async def test_a_wrong_secret_is_reported_without_the_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with connected(tmp_path, FakeAnswer("Two")) as (_, server):

        async def ignore(frame: object) -> None:
            pass

        with pytest.raises(NotSent, match="40001"):
            await Connection(server.url, BOT, "wrong-secret", ignore).try_subscription(5)
        await Connection(server.url, BOT, SECRET, ignore).try_subscription(5)
    assert "wrong-secret" not in caplog.text
    assert SECRET not in caplog.text
    assert PLATFORM_URL not in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "[]",
        "{}",
        '{"headers": 1}',
        '{"headers": {"req_id": []}}',
        '{"cmd": "aibot_msg_callback", "headers": {"req_id": "1"}}',
        '{"cmd": "aibot_event_callback", "headers": {"req_id": "1"}, "body": {"event": "x"}}',
        '{"cmd": "aibot_event_callback", "headers": {"req_id": "1"}, "body": "x"}',
    ],
)
async def test_unreadable_frames_do_not_end_the_connection(tmp_path: Path, data: str):
    async with connected(tmp_path, FakeAnswer("Two")) as (one, server):
        await server.connections[-1].send(data)
        request_id = await server.ask(one.platform.text("ann", "How many?"))
        await soon(lambda: (True, "Two") in server.contents(request_id))
        assert len(server.connections) == 1


async def test_an_error_in_reading_is_logged_and_the_connection_is_opened_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with connected(tmp_path, FakeAnswer("Two")) as (one, server):
        adapter: Any = one.service.adapters["wecom_bot"]
        receive, failures = adapter.connection._receive, [AttributeError("a bug")]

        def fail_once(data: str) -> None:
            if failures:
                raise failures.pop()
            receive(data)

        adapter.connection._receive = fail_once
        await server.connections[-1].send("{}")
        await soon(lambda: len(server.of("aibot_subscribe")) == 2)
        await asyncio.wait_for(adapter.connection.subscribed.wait(), 5)
        request_id = await server.ask(one.platform.text("ann", "How many?"))
        await soon(lambda: (True, "Two") in server.contents(request_id))
    assert "a bug" in caplog.text


async def test_a_subscription_without_acknowledgement_is_repeated_soon_and_is_no_wrong_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with connected(tmp_path, FakeAnswer("Two"), ack_s=0.2, reconnect_s=(0.05, 60.0)) as (_, server):
        server.ignored = ["aibot_subscribe"]
        await server.connections[-1].close()
        await soon(lambda: len(server.of("aibot_subscribe")) == 3)
    assert "refused the subscription" not in caplog.text
    assert "did not acknowledge the subscription" in caplog.text


async def test_a_message_without_acknowledgement_is_not_sent_twice(tmp_path: Path):
    async with connected(tmp_path, FakeAnswer("Two"), ack_s=0.3) as (one, server):
        server.codes, server.ignored = [846608], ["aibot_send_msg"]
        await server.ask(one.platform.text("ann", "How many?"))
        await soon(
            lambda: one.meter.counts["glm_bot_sends_total", "wecom_bot", "failed"] == 2
        )  # the frame, the message
        assert len(server.of("aibot_send_msg")) == 1


async def test_frames_of_a_growing_answer_use_half_of_the_limits_of_a_chat(tmp_path: Path):
    answer = FakeAnswer(*(f"{number} " for number in range(12)), pause_s=0.03)
    async with connected(tmp_path, answer, interval_s=0.0) as (one, server):
        adapter: Any = one.service.adapters["wecom_bot"]
        adapter._pace = Pace(((8, 3600.0),))
        request_id = await server.ask(one.platform.text("ann", "Count."))
        await soon(lambda: any(finish for finish, _ in server.contents(request_id)))
        contents = server.contents(request_id)
        assert len(contents) == 5
        assert contents[-1] == (True, "".join(f"{number} " for number in range(12)))


def shape(value: Any) -> Any:
    """The names and types of a frame."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return type(value).__name__


async def test_frames_are_those_of_the_official_library(tmp_path: Path):
    """sdk_frames.json: what wecom-aibot-python-sdk 1.0.2 sent to this server. The documents also have chat_type."""
    recorded = json.loads((Path(__file__).parent / "sdk_frames.json").read_text())
    answer = FakeAnswer("It ", "is", pause_s=0.05)
    async with connected(tmp_path, answer, ping_s=0.05) as (one, server):
        event = {"msgid": "e", "aibotid": BOT, "from": {"userid": "ann"}, "msgtype": "event"}
        await server.send("aibot_event_callback", event | {"event": {"eventtype": "enter_chat"}})
        await soon(lambda: bool(server.of("aibot_respond_welcome_msg")))
        first = await server.ask(one.platform.text("ann", "What?"))
        await soon(lambda: (True, "It is") in server.contents(first))
        server.codes = [846608]
        await server.ask(one.platform.text("ann", "What?"))
        await soon(lambda: bool(server.of("aibot_send_msg")) and bool(server.of("ping")))
    del server.of("aibot_send_msg")[0]["body"]["chat_type"]
    rated = [frame["body"]["stream"].pop("feedback", None) for frame in server.of("aibot_respond_msg")]
    assert rated[0] is not None
    assert rated.count(None) > 0  # in the first frame of an answer only
    ours = {(frame["cmd"], str(shape(frame))) for frame in server.frames}
    assert ours == {(frame["cmd"], str(shape(frame))) for frame in recorded}
