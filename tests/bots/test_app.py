"""The self-built app and group push: XML callbacks, access token, media, messages and error codes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve_app.bots.conversation.message import Inbound
from serve_app.bots.conversation.streams import Stream
from serve_app.bots.conversation.texts import EN
from serve_app.bots.wecom.api import ApiError, WecomApi
from serve_app.bots.wecom.crypto import Crypto
from serve_app.bots.wecom.push import GroupPush
from serve_app.bots.wecom.xml_fields import read_fields, write_fields
from serve_app.callbacks import Callback
from tests.bots.bench import KEY, PLATFORM_URL, TOKEN, Bench, bench, pictures_of
from tests.fakes import FakeAnswer, FakeAnswers, FakeMeter
from tests.ingress.client import PNG, soon

CORP, AGENT = "wx5823bf96d3bd56c7", 1000002
APP_SECRET, PUSH_KEY = "the-secret-of-the-app", "693a91f6-the-key"
CRYPTO = Crypto(TOKEN, KEY, CORP)


class FakeApi:
    """WeCom's API for one app: tokens that can be made invalid, media, messages."""

    def __init__(self) -> None:
        self.tokens = 0
        self.messages: list[dict[str, Any]] = []
        self.pushed: list[dict[str, Any]] = []
        self.codes: list[int] = []  # error codes of the next calls
        self.media: dict[str, bytes] = {}
        self.pieces = 0  # bytes of a piece; 0: files come at once
        self.valid = True
        self.app = Starlette(
            routes=[
                Route("/cgi-bin/gettoken", self._gettoken),
                Route("/cgi-bin/media/get", self._media_get),
                Route("/cgi-bin/message/send", self._send, methods=["POST"]),
                Route("/cgi-bin/webhook/send", self._push, methods=["POST"]),
            ]
        )

    @property
    def token(self) -> str:
        return f"token-{self.tokens}"

    async def _gettoken(self, request: Request) -> Response:
        await asyncio.sleep(0.01)
        if request.query_params["corpsecret"] != APP_SECRET:
            return JSONResponse({"errcode": 40001, "errmsg": "invalid credential"})
        self.tokens += 1
        self.valid = True
        return JSONResponse({"errcode": 0, "errmsg": "ok", "access_token": self.token, "expires_in": 7200})

    def _error(self, request: Request) -> Response | None:
        if request.query_params["access_token"] != self.token or not self.valid:
            return JSONResponse({"errcode": 42001, "errmsg": "access_token expired"})
        if self.codes:
            return JSONResponse({"errcode": self.codes.pop(0), "errmsg": "x"})
        return None

    async def _media_get(self, request: Request) -> Response:
        if (error := self._error(request)) is not None:
            return error
        data = self.media.get(request.query_params["media_id"])
        if data is None:
            return JSONResponse({"errcode": 40007, "errmsg": "invalid media_id"})
        piece = request.headers.get("range")
        if self.pieces and piece is None:
            return JSONResponse({"errcode": 830002, "errmsg": "use range"})
        if piece is None:
            return Response(data, media_type="image/png")
        start = int(piece.removeprefix("bytes=").partition("-")[0])
        part = data[start : start + self.pieces]
        content_range = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return Response(part, 206, {"Content-Range": content_range}, media_type="image/png")

    async def _send(self, request: Request) -> Response:
        if (error := self._error(request)) is not None:
            return error
        self.messages.append(await request.json())
        return JSONResponse({"errcode": 0, "errmsg": "ok"})

    async def _push(self, request: Request) -> Response:
        assert request.query_params["key"] == PUSH_KEY
        self.pushed.append(await request.json())
        return JSONResponse({"errcode": 0, "errmsg": "ok"})


def app_bench(folder: Path, answer: Any, api: FakeApi, **bots: Any) -> Any:
    for name, secret in (("app_secret", APP_SECRET), ("push_key", PUSH_KEY)):
        (folder / name).write_text(secret)
    for name, secret in (("app_token", TOKEN), ("app_aes_key", KEY)):
        (folder / name).write_text(secret)
    wecom = {
        "bot": "off",
        "corp_id": CORP,
        "agent_id": AGENT,
        "app_secret_file": str(folder / "app_secret"),
        "app_token_file": str(folder / "app_token"),
        "app_aes_key_file": str(folder / "app_aes_key"),
        "push_key_file": str(folder / "push_key"),
    }
    return bench(folder, answer, wecom=wecom, bots=bots, transport=httpx.ASGITransport(api.app))


async def post(one: Bench, **fields: str | int) -> dict[str, str]:
    """The decrypted reply to a message of the member ann; empty if there is none."""
    message = {"ToUserName": CORP, "FromUserName": "ann", "CreateTime": 1, "AgentID": AGENT, **fields}
    encrypted = CRYPTO.encrypt(write_fields(message))
    body = write_fields({"ToUserName": CORP, "AgentID": str(AGENT), "Encrypt": encrypted})
    at = str(int(one.clock()))
    query = {"msg_signature": CRYPTO.signature(at, "n", encrypted), "timestamp": at, "nonce": "n"}
    reply = await one.service.respond(Callback("wecom/app", "POST", query, {}, body))
    assert reply.status == 200, reply
    if not reply.body:
        return {}
    envelope = read_fields(reply.body)
    CRYPTO.verify(envelope["MsgSignature"], envelope["TimeStamp"], envelope["Nonce"], envelope["Encrypt"])
    return read_fields(CRYPTO.decrypt(envelope["Encrypt"]))


async def test_a_picture_and_then_a_question_are_answered_by_messages(tmp_path: Path):
    api, answer = FakeApi(), FakeAnswers(FakeAnswer("a label"), FakeAnswer("4711"))
    api.media["m1"] = PNG
    async with app_bench(tmp_path, answer, api) as one:
        reply = await post(one, MsgType="image", PicUrl="http://169.254.169.254/x", MediaId="m1", MsgId="1")
        assert (reply["MsgType"], reply["Content"], reply["ToUserName"]) == ("text", EN.reading, "ann")
        await post(one, MsgType="text", Content="Which number?", MsgId="2")
        await soon(lambda: len(api.messages) == 2)
        assert {message["text"]["content"] for message in api.messages} == {"a label", "4711"}
        assert all((message["touser"], message["agentid"]) == ("ann", AGENT) for message in api.messages)
        assert pictures_of(answer.requests[1]) == [PNG]


async def test_a_message_delivered_again_is_answered_once_and_an_event_gets_the_welcome(tmp_path: Path):
    api, answer = FakeApi(), FakeAnswer("Two")
    async with app_bench(tmp_path, answer, api) as one:
        await asyncio.gather(*(post(one, MsgType="text", Content="How many?", MsgId="1") for _ in range(4)))
        await soon(lambda: len(api.messages) == 1)
        assert len(answer.requests) == 1
        assert (await post(one, MsgType="event", Event="enter_agent"))["Content"] == EN.welcome
        assert await post(one, MsgType="event", Event="subscribe") == {}
        assert (await post(one, MsgType="location", MsgId="9"))["Content"] == EN.unsupported


async def test_a_long_answer_comes_in_several_texts_of_2048_bytes(tmp_path: Path):
    api, text = FakeApi(), "图" * 1500
    async with app_bench(tmp_path, FakeAnswer(text), api) as one:
        await post(one, MsgType="text", Content="Tell me.", MsgId="1")
        await soon(lambda: len(api.messages) == 3)
        contents = [message["text"]["content"] for message in api.messages]
        assert all(len(content.encode()) <= 2048 for content in contents)
        assert "".join(contents) == text


async def test_answered_questions_are_copied_to_the_group(tmp_path: Path):
    api = FakeApi()
    async with app_bench(tmp_path, FakeAnswer("Two"), api) as one:
        await post(one, MsgType="text", Content="How many?", MsgId="1")
        await soon(lambda: bool(api.pushed))
        assert api.pushed[0]["markdown"]["content"] == "**ann**\n> How many?\nTwo"


async def test_private_chats_with_the_ai_bot_are_not_copied_to_the_group():
    api = FakeApi()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app)) as client:
        push = GroupPush("https://api.test", PUSH_KEY, client, FakeMeter())
        for platform, chat in (("wecom_bot", ""), ("wecom_bot", "group"), ("wecom_app", ""), ("feishu_bot", "group")):
            await push.copy(Stream("id", Inbound(platform, "bot", "ann", "1", chat=chat, text="Q"), 0.0, text=platform))
    assert [each["markdown"]["content"].splitlines()[-1] for each in api.pushed] == ["wecom_bot", "wecom_app"]


async def test_copies_above_the_rate_limit_wait_in_a_bounded_queue():
    api, meter = FakeApi(), FakeMeter()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app)) as client:
        push = GroupPush("https://api.test", PUSH_KEY, client, meter)
        stream = Stream("id", Inbound("wecom_app", "bot", "ann", "1", text="Q"), 0.0, text="A")
        copies = [asyncio.ensure_future(push.copy(stream)) for _ in range(100)]
        await soon(lambda: len(api.pushed) == 20)
        await soon(lambda: sum(copy.done() for copy in copies) == 40)
        assert len(api.pushed) == 20
        assert meter.counts["glm_bot_sends_total", "wecom_push", "failed"] == 20
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)


async def test_a_repeated_delivery_does_not_show_the_answer_a_second_time(tmp_path: Path):
    api = FakeApi()
    async with app_bench(tmp_path, FakeAnswer("Two"), api) as one:
        assert (await post(one, MsgType="text", Content="How many?", MsgId="1"))["Content"] == EN.thinking
        await soon(lambda: bool(api.messages))
        assert await post(one, MsgType="text", Content="How many?", MsgId="1") == {}
        assert len(api.messages) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"msg_signature": "0" * 40}, 403),
        ({"timestamp": "1409659813"}, 403),
        ({"body": b"<xml"}, 400),
        ({"body": b'<?xml version="1.0" encoding="gbk"?><xml/>'}, 400),
        ({"body": b"<xml>%b</xml>" % (b"<a/>" * 20)}, 400),
        ({"body": b"<xml>%b</xml>" % (b" " * 2**16)}, 400),
    ],
)
async def test_a_hostile_callback_of_the_app_is_refused(tmp_path: Path, change: dict[str, Any], status: int):
    async with app_bench(tmp_path, FakeAnswer("Two"), FakeApi()) as one:
        encrypted = Crypto(TOKEN, KEY, "other-corp").encrypt(b"<xml/>")
        at = str(int(one.clock()))
        query = {"msg_signature": CRYPTO.signature(at, "n", encrypted), "timestamp": at, "nonce": "n"}
        body = change.pop("body", write_fields({"Encrypt": encrypted}))
        reply = await one.service.respond(Callback("wecom/app", "POST", {**query, **change}, {}, body))
        assert reply.status == status


async def test_a_doctype_and_another_receiver_are_refused(tmp_path: Path):
    async with app_bench(tmp_path, FakeAnswer("Two"), FakeApi()) as one:
        at = str(int(one.clock()))
        for crypto, plain in ((Crypto(TOKEN, KEY, "other"), b"<xml/>"), (CRYPTO, b"<!DOCTYPE x><xml/>")):
            encrypted = crypto.encrypt(plain)
            query = {"msg_signature": CRYPTO.signature(at, "n", encrypted), "timestamp": at, "nonce": "n"}
            body = write_fields({"Encrypt": encrypted})
            assert (await one.service.respond(Callback("wecom/app", "POST", query, {}, body))).status in (400, 403)


@pytest.fixture
async def api_client() -> Any:
    api = FakeApi()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app)) as client:
        yield api, WecomApi(PLATFORM_URL, CORP, APP_SECRET, client, rate_pause_s=0.01, busy_pause_s=0.01)


async def test_fifty_callers_whose_token_expired_request_one_new_token(api_client: Any):
    api, client = api_client
    await client.token()
    api.valid = False
    await asyncio.gather(*(client.send_text("ann", AGENT, "Hi") for _ in range(50)))
    assert (api.tokens, len(api.messages)) == (2, 50)


async def test_an_untrusted_address_is_not_tried_again_and_says_what_to_do(api_client: Any):
    api, client = api_client
    api.codes = [60020, 0]
    with pytest.raises(ApiError, match="企业可信IP"):
        await client.send_text("ann", AGENT, "Hi")
    assert api.codes == [0]


@pytest.mark.parametrize("codes", [[-1, -1, -1], [45009], [45033]])
async def test_a_busy_or_limited_api_is_asked_again(api_client: Any, codes: list[int]):
    api, client = api_client
    api.codes = list(codes)
    await client.send_text("ann", AGENT, "Hi")
    assert len(api.messages) == 1


async def test_a_media_error_with_status_200_is_an_error(api_client: Any):
    _, client = api_client
    with pytest.raises(ApiError, match="40007"):
        await client.media("gone", 1000)


async def test_a_large_file_comes_in_pieces_and_has_a_limit(api_client: Any):
    api, client = api_client
    api.media["m"], api.pieces = bytes(range(250)), 100
    assert await client.media("m", 1000) == bytes(range(250))
    with pytest.raises(ValueError, match="more than 120 bytes"):
        await client.media("m", 120)


async def test_a_wrong_secret_names_the_setting(api_client: Any):
    _, client = api_client
    client._secret = "wrong"
    with pytest.raises(ApiError, match=r"wecom\.app_secret_file"):
        await client.token()


async def test_logs_of_an_app_have_no_secret_and_no_token(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    api = FakeApi()
    api.codes = [81013]
    async with app_bench(tmp_path, FakeAnswer("Two"), api) as one:
        await post(one, MsgType="text", Content="How many?", MsgId="1")
        await soon(lambda: one.meter.counts["glm_bot_sends_total", "wecom_app", "failed"] == 1)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("glm"))
    assert "81013" in ours
    for secret in (APP_SECRET, PUSH_KEY, "token-1", TOKEN, KEY, "How many?"):
        assert secret not in ours
