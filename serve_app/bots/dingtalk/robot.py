"""The robot of DingTalk: messages by Stream mode or callback, answers as Markdown.

A reply goes to the session webhook of its message, or by the API once that has expired. DingTalk's messages can't
grow, so an answer that takes longer is announced first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from serve_app.bots.callback_refusal import CallbackRefused, refuse
from serve_app.bots.conversation.adapter import FetchFailed
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.conversation.cut import pieces
from serve_app.bots.conversation.message import FileRef, Inbound
from serve_app.bots.conversation.pace import Pace
from serve_app.bots.conversation.streams import Stream
from serve_app.bots.dingtalk.api import TIMEOUT_S, DingtalkApi, DingtalkError
from serve_app.bots.dingtalk.message import PLATFORM, parse_message, session_webhook
from serve_app.bots.dingtalk.signature import check_signature
from serve_app.bots.download import Download
from serve_app.bots.json_fields import MessageError
from serve_app.callbacks import Callback, CallbackReply
from serve_app.metrics import BOT_SENDS, Meter

MAX_TEXT: Final = 15_000  # bytes of one message
MAX_PIECES: Final = 5
TITLE: Final = 30  # characters, which notifications show
NOTICE_S: Final = 5.0
LIMITS: Final = ((18, 60.0),)  # DingTalk: 20 messages a minute of a robot in a group
EXPIRES_EARLY_S: Final = 30.0

_log = logging.getLogger("glm.bots.dingtalk")


class DingtalkRobot:
    """Adapter of the robot; `respond` is the route /bots/dingtalk/bot, `receive` gets the messages of Stream mode."""

    platform = PLATFORM

    def __init__(
        self,
        conversation: Conversation,
        api: DingtalkApi,
        download: Download,
        *,
        robot_code: str,
        secret: str,
        reply_url: str,
        picture_hosts: frozenset[str],
        replay_window_s: float,
        meter: Meter,
        now: Callable[[], float],
        client: httpx.AsyncClient,
        notice_s: float = NOTICE_S,
    ) -> None:
        self._conversation = conversation
        self._api = api
        self._download = download
        self._robot_code = robot_code
        self._secret = secret
        self._reply_origin = urlsplit(reply_url)[:2]
        self._picture_hosts = picture_hosts
        self._replay_window_s = replay_window_s
        self._meter = meter
        self._now = now
        self._client = client
        self._notice_s = notice_s
        self._pace = Pace(LIMITS)

    async def respond(self, callback: Callback) -> CallbackReply:
        """The response to a callback, empty: the answer is sent later."""
        try:
            check_signature(callback.headers, self._secret, now=self._now, window_s=self._replay_window_s)
            await self._receive(parse_message(orjson.loads(callback.body)))
        except CallbackRefused as error:
            return refuse(error, PLATFORM, self._meter)
        except orjson.JSONDecodeError:
            return refuse(CallbackRefused("body", "The body is not JSON.", 400), PLATFORM, self._meter)
        except MessageError as error:
            return refuse(CallbackRefused("message", str(error), 400), PLATFORM, self._meter)
        return CallbackReply()

    async def receive(self, data: Any) -> None:
        """A message of Stream mode. One that can't be read is logged, not raised: it would be sent again."""
        try:
            await self._receive(parse_message(data))
        except (CallbackRefused, MessageError) as error:
            _log.warning("A message of DingTalk can't be read: %s", error)

    async def fetch(self, file: FileRef) -> bytes:
        try:
            url = await self._api.download_url(file.place)
        except DingtalkError as error:
            refused = error.status == 400 and error.code != "InvalidAuthentication"  # mostly an expired code
            raise FetchFailed("expired" if refused else "not_downloaded", str(error)) from error
        if url.startswith("http://") and urlsplit(url).netloc in self._picture_hosts:
            url = f"https://{url.removeprefix('http://')}"
        return await self._download.get(url)

    async def deliver(self, stream: Stream) -> None:
        """Sends the complete answer; before it, once, what happens meanwhile if that takes longer."""
        if stream.is_answer and not stream.posted and not await stream.wait_finished(self._notice_s):
            stream.posted = "notice"
            await self._send(stream.message, stream.status)
            await self._conversation.streams.save(stream)
        await stream.wait_finished()
        texts = pieces(stream.text, MAX_TEXT)
        if len(texts) > MAX_PIECES:
            texts = [*texts[: MAX_PIECES - 1], texts[MAX_PIECES - 1] + self._conversation.texts.shortened]
        for number, text in enumerate(texts):
            if number < (stream.shown or 0):  # sent before a restart
                continue
            if not await self._send(stream.message, text):
                return
            stream.shown = number + 1
            await self._conversation.streams.save(stream)

    async def _receive(self, message: Inbound) -> None:
        if message.bot and message.bot != self._robot_code:
            raise CallbackRefused("receiver", "The message is for another robot than dingtalk.robot_code.")
        await self._conversation.receive(message, self)

    async def _send(self, message: Inbound, text: str) -> bool:
        """Whether DingTalk accepted the text."""
        await self._pace.enter(message.chat or message.user)
        sent = await self._send_to_session(message, text)
        if not sent:
            try:
                await self._api.send(message.user, message.chat, _title(text), text)
                sent = True
            except DingtalkError as error:
                _log.error("An answer could not be sent: %s", error)
        self._meter.count(BOT_SENDS, platform=PLATFORM, result="ok" if sent else "failed")
        return sent

    async def _send_to_session(self, message: Inbound, text: str) -> bool:
        url, expires_at = session_webhook(message.reply_to)
        if not url or self._now() > expires_at - EXPIRES_EARLY_S:
            return False
        if not self._is_reply_address(url):
            _log.warning("The session webhook of a message is not at dingtalk.reply_url and was not used.")
            return False
        body: dict[str, Any] = {"msgtype": "markdown", "markdown": {"title": _title(text), "text": text}}
        if message.chat:
            body["markdown"]["text"] = f"@{message.user}\n\n{text}"
            body["at"] = {"atUserIds": [message.user]}
        try:
            response = await self._client.post(url, json=body, timeout=TIMEOUT_S)
            code = response.json().get("errcode", 0) if response.status_code == 200 else response.status_code
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            code = type(error).__name__
        if code != 0:
            _log.warning("A session webhook of DingTalk answered with %s; the API is used.", code)
        return bool(code == 0)

    def _is_reply_address(self, url: str) -> bool:
        try:
            return urlsplit(url)[:2] == self._reply_origin
        except ValueError:
            return False


def _title(text: str) -> str:
    """The first line, without Markdown's marks."""
    line = next((line for line in text.splitlines() if line.strip(" #*`>-")), "")
    return line.strip(" #*`>-")[:TITLE] or "…"
