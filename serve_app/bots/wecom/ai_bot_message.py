"""Reads the JSON messages of the AI bot, the same for webhook and long connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from serve_app.bots.conversation.message import FileRef, Inbound, Quote
from serve_app.bots.json_fields import MessageError, read_object, read_text

PLATFORM: Final = "wecom_bot"
_READABLE: Final = frozenset({"text", "mixed", "image", "voice", "file"})


@dataclass(frozen=True, slots=True)
class StreamPoll:
    """WeCom asks for the rest of a stream."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class Rating:
    """A user's rating of an answer."""

    user: str
    feedback_id: str
    kind: int  # 1 good, 2 bad, 3 withdrawn
    content: str = ""
    reasons: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """An event that needs no answer, such as `disconnected_event`."""

    name: str


@dataclass(slots=True)
class _Parts:
    """What the parts of a message contain together."""

    texts: list[str] = field(default_factory=list)
    files: list[FileRef] = field(default_factory=list)
    unsupported: str = ""


Parsed: TypeAlias = Inbound | StreamPoll | Rating | OtherEvent


def parse_message(body: Any, *, reply_to: str = "") -> Parsed:
    """What a decrypted callback, or the body of a frame, contains. Raises MessageError.

    `reply_to` is the request id of a frame; a webhook's message has its `response_url`.
    """
    fields = read_object(body, "message")
    kind = read_text(fields, "msgtype")
    if kind == "stream":
        return StreamPoll(read_text(read_object(fields.get("stream"), "stream"), "id"))
    user = read_text(read_object(fields.get("from"), "from"), "userid")
    bot, chat = read_text(fields, "aibotid", optional=True), read_text(fields, "chatid", optional=True)
    if kind == "event":
        return _event(fields, bot, chat, user, reply_to)
    parts = _Parts()
    _read_part(fields, kind, parts)
    return Inbound(
        PLATFORM,
        bot,
        user,
        read_text(fields, "msgid"),
        chat=chat if fields.get("chattype") != "single" else "",
        text="\n".join(filter(None, parts.texts)),
        files=tuple(parts.files),
        quote=_quote(fields.get("quote")),
        unsupported=parts.unsupported,
        reply_to=reply_to or read_text(fields, "response_url", optional=True),
    )


def _event(fields: Mapping[str, Any], bot: str, chat: str, user: str, reply_to: str) -> Parsed:
    event = read_object(fields.get("event"), "event")
    name = read_text(event, "eventtype")
    if name == "enter_chat":
        message_id = read_text(fields, "msgid", optional=True) or f"{user} {fields.get('create_time', '')}"
        return Inbound(PLATFORM, bot, user, message_id, chat=chat, reply_to=reply_to, kind="enter_chat")
    if name == "feedback_event":
        feedback = read_object(event.get("feedback_event", event), "feedback_event")
        reasons = feedback.get("inaccurate_reason_list") or []
        return Rating(
            user,
            read_text(feedback, "id", optional=True),
            feedback["type"] if isinstance(feedback.get("type"), int) else 0,
            read_text(feedback, "content", optional=True),
            tuple(reason for reason in reasons if isinstance(reason, int)) if isinstance(reasons, list) else (),
        )
    return OtherEvent(name)


def _quote(value: Any) -> Quote | None:
    if value is None:
        return None
    fields = read_object(value, "quote")
    parts = _Parts()
    _read_part(fields, read_text(fields, "msgtype"), parts)
    return Quote("\n".join(filter(None, parts.texts)), tuple(parts.files))


def _read_part(fields: Mapping[str, Any], kind: str, parts: _Parts, *, nested: bool = False) -> None:
    """Adds the text or the file of a message, a quote or an item of a mixed message."""
    if kind not in _READABLE or (kind == "mixed" and nested):
        parts.unsupported = parts.unsupported or kind
        return
    content = read_object(fields.get(kind), kind)
    match kind:
        case "text" | "voice":  # WeCom sends a voice message as its text
            parts.texts.append(read_text(content, "content", optional=True))
        case "image" | "file":
            parts.files.append(
                FileRef(read_text(content, "url"), read_text(content, "aeskey", optional=True), kind == "file")
            )
        case "mixed":
            items = content.get("msg_item")
            if not isinstance(items, list):
                raise MessageError("The mixed message has no list msg_item.")
            for item in items:
                each = read_object(item, "msg_item")
                _read_part(each, read_text(each, "msgtype"), parts, nested=True)
