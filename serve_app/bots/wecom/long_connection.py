"""The AI bot by long connection: answers as frames, or as messages after the frames' time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.conversation.cut import close_fence, cut_at, neutralize_think, pieces, rest_after
from serve_app.bots.conversation.message import FileRef, Inbound
from serve_app.bots.conversation.pace import Pace
from serve_app.bots.conversation.streams import Stream
from serve_app.bots.json_fields import MessageError
from serve_app.bots.wecom.ai_bot_message import PLATFORM, Rating, parse_message
from serve_app.bots.wecom.connection import RESPOND, SEND, WELCOME, Connection, NotSent
from serve_app.bots.wecom.media import Media
from serve_app.bots.wecom.webhook import FINISH_S, ROOM, rate, stream_frame
from serve_app.metrics import BOT_SENDS, Meter

LIMITS: Final = ((28, 60.0), (950, 3600.0))  # WeCom: 30 a minute and 1000 an hour for each chat
GROWING_SHARE: Final = 0.5  # of the limits is for answers that grow; the rest is for their ends and for messages
INTERVAL_S: Final = 2.0
RETRIES: Final = 5
RETRY_S: Final = 5.0
TOO_LATE: Final = frozenset({846605, 846608})  # unknown request id, or 6 minutes are over: send a new message

_log = logging.getLogger("glm.bots.wecom")


class WecomLongConnection:
    """Adapter of the AI bot in long connection mode."""

    platform = PLATFORM

    def __init__(
        self,
        conversation: Conversation,
        media: Media,
        *,
        url: str,
        bot_id: str,
        secret: str,
        meter: Meter,
        now: Callable[[], float],
        interval_s: float = INTERVAL_S,
        finish_s: float = FINISH_S,
        retry_s: float = RETRY_S,
        **connection: Any,
    ) -> None:
        self.connection = Connection(url, bot_id, secret, self._receive, **connection)
        self._conversation = conversation
        self._media = media
        self._bot_id = bot_id
        self._meter = meter
        self._now = now
        self._pace = Pace(LIMITS, interval_s, time.monotonic)
        self._finish_s = finish_s
        self._retry_s = retry_s

    async def run(self) -> None:
        await self.connection.run()

    async def fetch(self, file: FileRef) -> bytes:
        return await self._media.fetch(file)

    async def deliver(self, stream: Stream) -> None:
        """Sends the text as it grows; each frame has all of it. After 5:30, or an error code, the rest is a message."""
        if stream.message.kind == "enter_chat":
            await self._try(WELCOME, {"msgtype": "text", "text": {"content": stream.content}}, stream)
            return
        position = await self._push(stream)
        if position is None:
            return
        await stream.wait_finished()
        rest = rest_after(neutralize_think(stream.text), position)
        for piece in pieces(rest, ROOM):
            await self._send_message(stream.message, piece)

    async def _push(self, stream: Stream) -> int | None:
        """Sends frames; None if the answer is complete, otherwise how many characters of it were shown."""
        shown, sent = 0, ""
        while True:
            changed = stream.changed
            late = self._is_late(stream)
            if sent and not stream.finished and not late and not self._is_frame_due(stream, sent):
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._finish_s - (self._now() - stream.started_at))):
                        await changed.wait()
                continue
            await stream.wait_finished(self._pace.wait_s(_chat(stream.message)))
            await self._pace.enter(_chat(stream.message), urgent=stream.finished)
            finished, late = stream.finished, self._is_late(stream)  # the newest, after the wait
            content, position, more = self._content(stream, late=late)
            frame = stream_frame(stream.id, content, finish=finished or late)
            if not sent:
                frame["stream"]["feedback"] = {"id": stream.id}  # in the first frame only
            if not await self._try(RESPOND, frame, stream):
                return 0  # the user may have seen parts; the message has everything
            shown, sent = position if stream.text else 0, content
            if finished or late:
                return shown if more else None

    def _content(self, stream: Stream, *, late: bool) -> tuple[str, int, bool]:
        """What a frame shows, how many characters of the text these are, and whether more will follow."""
        text = neutralize_think(stream.content)
        position = cut_at(text, ROOM)
        more = position < len(text) or late
        return close_fence(text[:position]) + (self._conversation.texts.continues if more else ""), position, more

    def _is_frame_due(self, stream: Stream, sent: str) -> bool:
        """Whether a growing answer has new text and its chat has frames left for it."""
        return self._content(stream, late=False)[0] != sent and self._pace.is_below(
            _chat(stream.message), GROWING_SHARE
        )

    def _is_late(self, stream: Stream) -> bool:
        return not stream.finished and self._now() - stream.started_at >= self._finish_s

    async def _try(self, command: str, body: dict[str, Any], stream: Stream) -> bool:
        """Whether the reply was acknowledged; tried again while the connection is interrupted."""
        for _ in range(RETRIES):
            try:
                await self.connection.send(command, body, stream.message.reply_to)
            except NotSent as error:
                _log.warning("A reply was not sent: %s", error)
                if error.code in TOO_LATE or (error.code and command == WELCOME):
                    break
                await self._wait_for_connection()
            else:
                self._meter.count(BOT_SENDS, platform=PLATFORM, result="ok")
                return True
        self._meter.count(BOT_SENDS, platform=PLATFORM, result="failed")
        return False

    async def _send_message(self, message: Inbound, content: str) -> None:
        body = {
            "chatid": _chat(message),
            "chat_type": 2 if message.chat else 1,
            "msgtype": "markdown",
            "markdown": {"content": content},
        }
        for _ in range(RETRIES):
            await self._pace.enter(_chat(message))
            try:
                await self.connection.send(SEND, body)
            except NotSent as error:
                _log.warning("A message was not sent: %s", error)
                if error.is_unknown:  # sent again, the user may read it twice
                    break
                await self._wait_for_connection()
            else:
                self._meter.count(BOT_SENDS, platform=PLATFORM, result="ok")
                return
        self._meter.count(BOT_SENDS, platform=PLATFORM, result="failed")

    async def _wait_for_connection(self) -> None:
        await asyncio.sleep(self._retry_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._retry_s * 6):
                await self.connection.subscribed.wait()

    async def _receive(self, frame: dict[str, Any]) -> None:
        try:
            parsed = parse_message(frame.get("body"), reply_to=frame["headers"]["req_id"])
        except MessageError as error:
            _log.warning("A message of WeCom can't be read: %s", error)
            return
        if isinstance(parsed, Inbound):
            if parsed.bot and parsed.bot != self._bot_id:
                _log.warning("A message is for another bot than wecom.bot_id.")
                return
            await self._conversation.receive(parsed, self)
        elif isinstance(parsed, Rating):
            await rate(self._conversation, parsed)


def _chat(message: Inbound) -> str:
    return message.chat or message.user
