"""The AI bot by webhook: URL verification, messages, refreshes of streams, late answers.

Documents 100719 (messages), 101031 (replies), 101138 (active reply). WeCom asks for a stream again and again until it
is finished or 6 minutes have passed; so after 5:30 the stream is ended and the rest is sent to the message's address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx
import orjson

from serve_app.bots.callback_refusal import CallbackRefused, refuse
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.conversation.cut import close_fence, cut, cut_at, neutralize_think, rest_after
from serve_app.bots.conversation.message import FileRef, Inbound
from serve_app.bots.conversation.streams import Stream
from serve_app.bots.json_fields import MessageError
from serve_app.bots.wecom.ai_bot_message import (
    PLATFORM,
    Rating,
    StreamPoll,
    parse_message,
)
from serve_app.bots.wecom.callback_check import CallbackCheck
from serve_app.bots.wecom.media import Media
from serve_app.callbacks import Callback, CallbackReply
from serve_app.metrics import BOT_SENDS, Meter

MAX_CONTENT: Final = 20_480  # bytes of a stream's content, and of Markdown by response_url
ROOM: Final = MAX_CONTENT - 256  # without the note that the rest follows
FINISH_S: Final = 330.0
GOOD: Final = 1  # of a rating
BAD: Final = 2
ANSWER_S: Final = 3600.0  # an address for the active reply is valid for so long
SEND_TIMEOUT_S: Final = 10.0

_log = logging.getLogger("glm.bots.wecom")


class WecomWebhook:
    """Adapter of the AI bot in webhook mode; `respond` is the route /bots/wecom/bot."""

    platform = PLATFORM

    def __init__(
        self,
        conversation: Conversation,
        check: CallbackCheck,
        media: Media,
        *,
        bot_id: str,
        api_url: str,
        meter: Meter,
        now: Callable[[], float],
        client: httpx.AsyncClient,
        finish_s: float = FINISH_S,
    ) -> None:
        self._conversation = conversation
        self._check = check
        self._media = media
        self._bot_id = bot_id
        self._api_origin = _origin(api_url)
        self._meter = meter
        self._now = now
        self._client = client
        self.finish_s = finish_s

    async def respond(self, callback: Callback) -> CallbackReply:
        """The response to a callback; one that is refused gets 403 or 400 and is logged without its content."""
        try:
            if callback.method == "GET":
                return CallbackReply(self._check.open(callback.query, callback.query.get("echostr", "")))
            plain = self._check.open(callback.query, _encrypted(callback.body))
            return await self._reply(callback, parse_message(_json(plain)))
        except CallbackRefused as error:
            return refuse(error, PLATFORM, self._meter)
        except MessageError as error:
            return refuse(CallbackRefused("message", str(error), 400), PLATFORM, self._meter)

    async def fetch(self, file: FileRef) -> bytes:
        return await self._media.fetch(file)

    async def deliver(self, stream: Stream) -> None:
        """Sends what the polls could not get: the rest after 5:30, or after the longest content."""
        if stream.message.kind == "enter_chat":
            return
        await stream.wait_finished(self.finish_s - (self._now() - stream.started_at))
        if not stream.finished:
            self._end_early(stream)
            await self._conversation.streams.save(stream)
            await stream.wait_finished()
        elif stream.shown is None:
            text = neutralize_think(stream.text)
            if (position := cut_at(text, ROOM)) < len(text):
                stream.shown = position
                await self._conversation.streams.save(stream)
        if stream.shown is not None:
            await self._send_rest(stream)

    async def _reply(self, callback: Callback, parsed: Any) -> CallbackReply:
        match parsed:
            case Inbound():
                self._check_bot(parsed)
                stream = await self._conversation.receive(parsed, self)
                if parsed.kind == "enter_chat":
                    return self._encrypt(callback, {"msgtype": "text", "text": {"content": stream.content}})
                frame = self._frame(stream)
                frame["stream"]["feedback"] = {"id": stream.id}  # in the first reply only
                return self._encrypt(callback, frame)
            case StreamPoll():
                found = await self._conversation.streams.find(parsed.stream_id)
                if found is None:
                    return self._encrypt(
                        callback, stream_frame(parsed.stream_id, self._conversation.texts.unknown_stream, finish=True)
                    )
                return self._encrypt(callback, self._frame(found))
            case Rating():
                await rate(self._conversation, parsed)
        return CallbackReply()

    def _check_bot(self, message: Inbound) -> None:
        if self._bot_id and message.bot != self._bot_id:
            raise CallbackRefused("receiver", "The callback is for another bot than wecom.bot_id.")

    def _frame(self, stream: Stream) -> dict[str, Any]:
        """What the user sees now: all text so far, ended after 5:30 even if the model is not."""
        if not stream.finished and stream.shown is None and self._now() - stream.started_at >= self.finish_s:
            self._end_early(stream)
        text = neutralize_think(stream.content or self._conversation.texts.thinking)
        position = cut_at(text, ROOM) if stream.shown is None or not stream.text else stream.shown
        more = position < len(text) or (stream.shown is not None and not stream.finished)
        head = close_fence(text[:position]) + (self._conversation.texts.continues if more else "")
        return stream_frame(stream.id, head, finish=stream.finished or stream.shown is not None)

    def _end_early(self, stream: Stream) -> None:
        if stream.shown is None:
            stream.shown = cut_at(neutralize_think(stream.text), ROOM)

    async def _send_rest(self, stream: Stream) -> None:
        """One Markdown message with the rest of the answer; only one is allowed."""
        rest = rest_after(neutralize_think(stream.text), stream.shown or 0)
        url = stream.message.reply_to
        if not rest:
            return
        if not url or _origin(url) != self._api_origin or self._now() - stream.started_at > ANSWER_S:
            _log.warning("The rest of an answer can't be sent: the message has no valid response_url.")
            self._meter.count(BOT_SENDS, platform=PLATFORM, result="failed")
            return
        head, left = cut(rest, ROOM)
        content = head + (self._conversation.texts.shortened if left else "")
        body = orjson.dumps({"msgtype": "markdown", "markdown": {"content": content}})
        try:
            response = await self._client.post(
                url, content=body, headers={"Content-Type": "application/json"}, timeout=SEND_TIMEOUT_S
            )
            code = response.json().get("errcode", 0) if response.status_code == 200 else response.status_code
        except (httpx.HTTPError, ValueError) as error:
            code = type(error).__name__
        self._meter.count(BOT_SENDS, platform=PLATFORM, result="ok" if code == 0 else "failed")
        if code != 0:
            _log.warning("The rest of an answer could not be sent: %s.", code)

    def _encrypt(self, callback: Callback, reply: dict[str, Any]) -> CallbackReply:
        crypto, nonce = self._check.crypto, callback.query.get("nonce", "")
        encrypted, timestamp = crypto.encrypt(orjson.dumps(reply)), int(self._now())
        signature = crypto.signature(str(timestamp), nonce, encrypted)
        envelope = {"encrypt": encrypted, "msgsignature": signature, "timestamp": timestamp, "nonce": nonce}
        return CallbackReply(orjson.dumps(envelope), "application/json")


async def rate(conversation: Conversation, rating: Rating) -> None:
    """Passes a user's rating on; a withdrawn one changes nothing."""
    if rating.kind in (GOOD, BAD) and rating.feedback_id:
        comment = "\n".join(filter(None, (rating.content, " ".join(map(str, rating.reasons)))))
        value: Literal["up", "down"] = "up" if rating.kind == GOOD else "down"
        await conversation.rate(PLATFORM, rating.user, rating.feedback_id, value, comment)


def stream_frame(id: str, content: str, *, finish: bool) -> dict[str, Any]:
    """The reply of type stream; `content` is everything so far and never empty, or the bubble would not end."""
    return {"msgtype": "stream", "stream": {"id": id, "finish": finish, "content": content}}


def _encrypted(body: bytes) -> str:
    fields = _json(body)
    encrypted = fields.get("encrypt") if isinstance(fields, dict) else None
    if not isinstance(encrypted, str):
        raise CallbackRefused("body", "The body is not a JSON object with the field 'encrypt'.", 400)
    return encrypted


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CallbackRefused("body", "The body is not JSON.", 400) from error


def _origin(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.netloc
