"""Group push (消息推送): copies answered questions to a group; it only sends."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import httpx

from serve_app.bots.conversation.cut import cut
from serve_app.bots.conversation.pace import Pace
from serve_app.bots.conversation.streams import Stream
from serve_app.bots.wecom.ai_bot_message import PLATFORM as AI_BOT
from serve_app.bots.wecom.api import HINTS
from serve_app.bots.wecom.app import PLATFORM as APP
from serve_app.metrics import BOT_SENDS, Meter

PLATFORM: Final = "wecom_push"
MAX_MARKDOWN: Final = 4096  # bytes
LIMITS: Final = ((20, 60.0),)
TIMEOUT_S: Final = 10.0
MAX_WAITING: Final = 60  # copies: three minutes at the rate limit

_log = logging.getLogger("glm.bots.wecom")


class GroupPush:
    """One group robot. Its key is a secret: it is in the address and never in a log."""

    def __init__(self, url: str, key: str, client: httpx.AsyncClient, meter: Meter) -> None:
        self._url = f"{url.rstrip('/')}/cgi-bin/webhook/send"
        self._key = key
        self._client = client
        self._meter = meter
        self._pace = Pace(LIMITS)
        self._sending = asyncio.Lock()
        self._waiting = 0  # copies, with the one that is being sent

    async def copy(self, stream: Stream) -> None:
        """Sends the question and the answer of a stream of the app or of a group chat; others are private."""
        message = stream.message
        if message.platform != APP and not (message.platform == AI_BOT and message.chat):
            return
        if self._waiting >= MAX_WAITING:
            _log.error("An answer was not copied to the group: %d answers wait for its rate limit.", self._waiting)
            self._meter.count(BOT_SENDS, platform=PLATFORM, result="failed")
            return
        question = "\n".join(f"> {line}" for line in message.text.splitlines()) or "> [图片]"
        self._waiting += 1
        try:
            async with self._sending:
                await self.send(f"**{message.user}**\n{question}\n{stream.text}")
        finally:
            self._waiting -= 1

    async def send(self, markdown: str) -> bool:
        """Whether the text was sent; a failure is logged and counted."""
        text, _ = cut(markdown, MAX_MARKDOWN)
        await self._pace.enter("robot")
        body = {"msgtype": "markdown", "markdown": {"content": text}}
        try:
            response = await self._client.post(self._url, params={"key": self._key}, json=body, timeout=TIMEOUT_S)
            code = int(response.json().get("errcode", 0))
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            _log.error("A text could not be sent to the group: %s.", type(error).__name__)
            code = -1
        if code > 0:
            _log.error("The group robot refused a text with error code %d. %s", code, HINTS.get(code, ""))
        self._meter.count(BOT_SENDS, platform=PLATFORM, result="ok" if code == 0 else "failed")
        return code == 0
