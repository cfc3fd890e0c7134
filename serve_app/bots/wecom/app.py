"""The self-built app (自建应用): XML callbacks, pictures by media/get, answers by message/send."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from serve_app.bots.callback_refusal import CallbackRefused, refuse
from serve_app.bots.conversation.adapter import FetchFailed
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.conversation.cut import cut, pieces
from serve_app.bots.conversation.message import FileRef, Inbound
from serve_app.bots.conversation.pace import Pace
from serve_app.bots.conversation.streams import Stream
from serve_app.bots.wecom.api import ApiError, WecomApi
from serve_app.bots.wecom.callback_check import CallbackCheck
from serve_app.bots.wecom.xml_fields import MAX_ENVELOPE_ELEMENTS, XmlError, read_fields, write_fields
from serve_app.callbacks import Callback, CallbackReply
from serve_app.metrics import BOT_SENDS, Meter

PLATFORM: Final = "wecom_app"
MAX_BODY: Final = 64 * 1024  # bytes of a callback; a text of a member has at most 2048
MAX_TEXT: Final = 2048  # bytes
MAX_PIECES: Final = 10  # messages of one answer
LIMITS: Final = ((30, 60.0), (1000, 3600.0))  # for each member
FILE_KINDS: Final = frozenset({"image", "file"})

_log = logging.getLogger("glm.bots.wecom")


class WecomApp:
    """Adapter of the app; `respond` is the route /bots/wecom/app."""

    platform = PLATFORM

    def __init__(
        self,
        conversation: Conversation,
        check: CallbackCheck,
        api: WecomApi,
        *,
        corp_id: str,
        agent_id: int,
        max_bytes: int,
        meter: Meter,
        now: Callable[[], float],
    ) -> None:
        self._conversation = conversation
        self._check = check
        self._api = api
        self._corp_id = corp_id
        self._agent_id = agent_id
        self._max_bytes = max_bytes
        self._meter = meter
        self._now = now
        self._pace = Pace(LIMITS)

    async def respond(self, callback: Callback) -> CallbackReply:
        """The response to a callback: a text at once, or that the question is being read."""
        try:
            if callback.method == "GET":
                return CallbackReply(self._check.open(callback.query, callback.query.get("echostr", "")))
            if len(callback.body) > MAX_BODY:  # read before its signature can be checked
                raise CallbackRefused("body", f"The body has {len(callback.body)} bytes; the limit is {MAX_BODY}.", 400)
            envelope = read_fields(callback.body, MAX_ENVELOPE_ELEMENTS)
            message = self._parse(read_fields(self._check.open(callback.query, envelope.get("Encrypt", ""))))
        except CallbackRefused as error:
            return refuse(error, PLATFORM, self._meter)
        except (XmlError, KeyError) as error:
            return refuse(CallbackRefused("body", str(error), 400), PLATFORM, self._meter)
        if message is None:
            return CallbackReply()
        stream = await self._conversation.receive(message, self)
        if stream.is_answer and stream.finished:  # a repeated delivery: `deliver` sends the answer
            return CallbackReply()
        content = stream.status if stream.is_answer else stream.content
        return self._encrypt(callback, message.user, cut(content, MAX_TEXT)[0])

    async def fetch(self, file: FileRef) -> bytes:
        try:
            return await self._api.media(file.place, self._max_bytes)
        except ValueError as error:
            raise FetchFailed("too_large", str(error)) from error
        except ApiError as error:
            raise FetchFailed("expired" if error.code == 40007 else "not_downloaded", str(error)) from error

    async def deliver(self, stream: Stream) -> None:
        """Sends the complete answer; the callback's own response has had all other texts."""
        if not stream.is_answer:
            return
        await stream.wait_finished()
        texts = pieces(stream.text, MAX_TEXT - 64)
        if len(texts) > MAX_PIECES:
            texts = [*texts[: MAX_PIECES - 1], texts[MAX_PIECES - 1] + self._conversation.texts.shortened]
        for number, text in enumerate(texts):
            if number < (stream.shown or 0):  # sent before a restart
                continue
            await self._pace.enter(stream.message.user)
            try:
                await self._api.send_text(stream.message.user, self._agent_id, text)
            except ApiError as error:
                _log.error("An answer could not be sent: %s", error)
                self._meter.count(BOT_SENDS, platform=PLATFORM, result="failed")
                return
            stream.shown = number + 1
            await self._conversation.streams.save(stream)
            self._meter.count(BOT_SENDS, platform=PLATFORM, result="ok")

    def _parse(self, fields: dict[str, str]) -> Inbound | None:
        """The message of decrypted XML; None for an event that needs no answer. Raises KeyError, CallbackRefused."""
        if fields.get("AgentID", str(self._agent_id)) != str(self._agent_id):
            raise CallbackRefused("receiver", "The callback is for another app than wecom.agent_id.")
        user, kind = fields["FromUserName"], fields["MsgType"]
        bot = str(self._agent_id)
        if kind == "event":
            if fields.get("Event") != "enter_agent":
                return None
            return Inbound(PLATFORM, bot, user, f"enter {fields.get('CreateTime', '')}", kind="enter_chat")
        return Inbound(
            PLATFORM,
            bot,
            user,
            fields["MsgId"],
            text=fields.get("Content", "") if kind == "text" else fields.get("Recognition", ""),
            files=(FileRef(fields["MediaId"], is_document=kind == "file"),) if kind in FILE_KINDS else (),
            unsupported="" if kind in {"text", *FILE_KINDS} or fields.get("Recognition") else kind,
        )

    def _encrypt(self, callback: Callback, user: str, text: str) -> CallbackReply:
        at, nonce, crypto = int(self._now()), callback.query.get("nonce", ""), self._check.crypto
        reply: dict[str, str | int] = {"ToUserName": user, "FromUserName": self._corp_id, "CreateTime": at}
        encrypted = crypto.encrypt(write_fields({**reply, "MsgType": "text", "Content": text}))
        signature = crypto.signature(str(at), nonce, encrypted)
        envelope: dict[str, str | int] = {"Encrypt": encrypted, "MsgSignature": signature, "TimeStamp": at}
        return CallbackReply(write_fields({**envelope, "Nonce": nonce}), "application/xml")
