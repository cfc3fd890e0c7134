"""The bot of Feishu: encrypted events, answers as a card that grows.

Feishu waits 3 seconds for the response and repeats an event after 15 seconds, 5 minutes, 1 hour and 6 hours. An event
older than the replay window is acknowledged and not answered, since the streams of earlier deliveries are not kept.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from serve_app.bots.callback_refusal import CallbackRefused, refuse
from serve_app.bots.conversation.adapter import FetchFailed
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.conversation.cut import close_fence, cut_at, pieces, rest_after
from serve_app.bots.conversation.message import FileRef, Inbound, Quote
from serve_app.bots.conversation.pace import Pace
from serve_app.bots.conversation.streams import Stream
from serve_app.bots.feishu.api import FeishuApi, FeishuError, fetch_failed
from serve_app.bots.feishu.crypto import Crypto, CryptoError
from serve_app.bots.feishu.message import PLATFORM, RECEIVE, Event, parse_event, parse_quote
from serve_app.bots.json_fields import MessageError
from serve_app.callbacks import Callback, CallbackReply
from serve_app.metrics import BOT_SENDS, Meter

MAX_TEXT: Final = 12_000  # bytes of Markdown in a card: as JSON in JSON it stays below Feishu's 30 KB
MAX_PIECES: Final = 5
INTERVAL_S: Final = 1.0  # between two updates of a card; Feishu allows 5 a second
LIMITS: Final = ((4, 1.0),)  # Feishu: 5 messages a second to a chat
QUOTE_S: Final = 1.5  # to fetch the quoted message, within the 3 seconds for the response

_log = logging.getLogger("glm.bots.feishu")


class FeishuBot:
    """Adapter of the bot; `respond` is the route /bots/feishu/bot."""

    platform = PLATFORM

    def __init__(
        self,
        conversation: Conversation,
        crypto: Crypto,
        api: FeishuApi,
        *,
        app_id: str,
        token: str,
        bot_open_id: str,
        replay_window_s: float,
        max_bytes: int,
        meter: Meter,
        now: Callable[[], float],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._conversation = conversation
        self._crypto = crypto
        self._api = api
        self._app_id = app_id
        self._token = token
        self._bot_open_id = bot_open_id
        self._replay_window_s = replay_window_s
        self._max_bytes = max_bytes
        self._meter = meter
        self._now = now
        self._interval_s = interval_s
        self._pace = Pace(LIMITS)

    async def respond(self, callback: Callback) -> CallbackReply:
        """The response to a callback; one that is refused gets 403 or 400 and is logged without its content."""
        try:
            body = self._open(callback)
            if body.get("type") == "url_verification":
                return _json({"challenge": str(body.get("challenge", ""))})
            header = body.get("header")
            if isinstance(header, dict) and header.get("event_type") == RECEIVE:
                await self._receive(parse_event(body, self._bot_open_id))
        except CallbackRefused as error:
            return refuse(error, PLATFORM, self._meter)
        except MessageError as error:
            return refuse(CallbackRefused("message", str(error), 400), PLATFORM, self._meter)
        return _json({"msg": "success"})

    async def fetch(self, file: FileRef) -> bytes:
        if not file.key:
            raise FetchFailed("not_downloaded", "The quoted message could not be read.")
        try:
            return await self._api.file(file, self._max_bytes)
        except FeishuError as error:
            raise fetch_failed(error) from error

    async def deliver(self, stream: Stream) -> None:
        """Replies with a card, updates it while the text grows, and replies again with what does not fit."""
        if not await self._grow(stream):
            return
        rest = rest_after(_harmless(stream.text), cut_at(_harmless(stream.text), MAX_TEXT))
        texts = pieces(rest, MAX_TEXT)
        if len(texts) >= MAX_PIECES:
            texts = [*texts[: MAX_PIECES - 2], texts[MAX_PIECES - 2] + self._conversation.texts.shortened]
        for number, text in enumerate(texts):
            if not await self._try(stream, text, f"{stream.id}-{number}"):
                return

    async def _grow(self, stream: Stream) -> bool:
        """Shows the text as it grows; whether the last of it was shown."""
        shown = ""
        while True:
            changed, finished = stream.changed, stream.finished
            text = _harmless(stream.content)
            content = close_fence(text[: cut_at(text, MAX_TEXT)])
            if content != shown or finished:
                sent = await self._show(stream, content, last=finished)
                if finished:
                    return sent
                shown = content
            await changed.wait()
            if not stream.finished:
                await asyncio.sleep(self._interval_s)

    async def _show(self, stream: Stream, content: str, *, last: bool) -> bool:
        """Updates the card of the answer; the first time, or if the last update fails, replies with a new one."""
        if stream.posted:
            await self._pace.enter(_chat(stream.message))
            try:
                await self._api.update(stream.posted, card(content))
            except FeishuError as error:
                _log.warning("The card of an answer could not be updated: %s", error)
                if not last:
                    return False
            else:
                self._meter.count(BOT_SENDS, platform=PLATFORM, result="ok")
                return True
        posted = await self._try(stream, content, f"{stream.id}{'-again' if stream.posted else ''}")
        if posted:
            stream.posted = posted
            await self._conversation.streams.save(stream)
        return bool(posted)

    async def _try(self, stream: Stream, content: str, uuid: str) -> str:
        """The id of a reply; empty if Feishu refused it."""
        await self._pace.enter(_chat(stream.message))
        try:
            posted = await self._api.reply(stream.message.reply_to, card(content), uuid)
        except FeishuError as error:
            _log.error("An answer could not be sent: %s", error)
            posted = ""
        self._meter.count(BOT_SENDS, platform=PLATFORM, result="ok" if posted else "failed")
        return posted

    def _open(self, callback: Callback) -> Mapping[str, Any]:
        """The decrypted body of a callback whose signature, time, token and app are right. Raises CallbackRefused.

        Only the verification of a new callback address comes without a signature.
        """
        headers, signed = callback.headers, "x-lark-signature" in callback.headers
        timestamp = headers.get("x-lark-request-timestamp", "")
        try:
            if signed:
                nonce = headers.get("x-lark-request-nonce", "")
                self._crypto.verify(headers["x-lark-signature"], timestamp, nonce, callback.body)
                self._check_time(timestamp)
            body = _object(self._crypto.decrypt(_encrypted(callback.body)))
        except CryptoError as error:
            raise CallbackRefused("signature" if signed else "decryption", str(error)) from error
        is_verification = body.get("type") == "url_verification"
        if not signed and not is_verification:
            raise CallbackRefused("signature", "The callback has no signature.")
        header = {} if is_verification else _field(body, "header")
        token = str(body.get("token") if is_verification else header.get("token"))
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token.encode()):
            raise CallbackRefused("token", "The Verification Token is wrong. Check feishu.verification_token_file.")
        if not is_verification and header.get("app_id") != self._app_id:
            raise CallbackRefused("receiver", "The callback is for another app than feishu.app_id.")
        return body

    def _check_time(self, timestamp: str) -> None:
        age_s = self._now() - int(timestamp[:16]) if timestamp.isascii() and timestamp.isdigit() else float("inf")
        if abs(age_s) > self._replay_window_s:
            raise CallbackRefused(
                "time",
                f"The callback is {age_s:.0f} seconds old; the limit is {self._replay_window_s:g}"
                " (feishu.replay_window_s). Check this machine's clock.",
            )

    async def _receive(self, event: Event) -> None:
        if event.message is None:
            return
        if self._now() - event.created_at > self._replay_window_s:
            _log.warning("A message that is %.0f seconds old is not answered.", self._now() - event.created_at)
            return
        quote = await self._quote(event.parent_id) if event.parent_id else None
        await self._conversation.receive(replace(event.message, quote=quote), self)

    async def _quote(self, message_id: str) -> Quote:
        """The quoted message; if it can't be had, a file whose fetch fails, which the user reads."""
        try:
            async with asyncio.timeout(QUOTE_S):
                return parse_quote(await self._api.message(message_id))
        except (FeishuError, MessageError, TimeoutError) as error:
            _log.warning("A quoted message could not be read: %s", error or type(error).__name__)
            return Quote(files=(FileRef(message_id),))


def card(markdown: str) -> str:
    """The JSON of a card that can be updated."""
    elements = [{"tag": "markdown", "content": markdown}]
    fields = {"schema": "2.0", "config": {"update_multi": True}, "body": {"elements": elements}}
    return orjson.dumps(fields).decode()


def _harmless(text: str) -> str:
    """The text without working `<at …>` tags, by which a model could notify everyone in a group."""
    return text.replace("<at", "<\u200bat").replace("</at", "</\u200bat")


def _chat(message: Inbound) -> str:
    return message.chat or message.user


def _json(fields: Mapping[str, Any]) -> CallbackReply:
    return CallbackReply(orjson.dumps(fields), "application/json")


def _encrypted(body: bytes) -> str:
    encrypted = _object(body).get("encrypt")
    if not isinstance(encrypted, str):
        raise CallbackRefused("body", "The body has no field 'encrypt'. Set an Encrypt Key for the app's events.", 400)
    return encrypted


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CallbackRefused("body", "The body is not JSON.", 400) from error
    if not isinstance(fields, dict):
        raise CallbackRefused("body", "The body is not a JSON object.", 400)
    return fields


def _field(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise CallbackRefused("body", f"The event has no {name}. Only events of schema 2.0 are read.", 400)
    return value
