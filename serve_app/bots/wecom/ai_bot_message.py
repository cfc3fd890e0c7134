"""Reads the JSON messages of the AI bot, the same for webhook and long connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from serve_app.bots.conversation.message import FileRef, Inbound, Quote

PLATFORM: Final = "wecom_bot"
_READABLE: Final = frozenset({"text", "mixed", "image", "voice", "file"})


class MessageError(ValueError):
    """The JSON is not a message as WeCom documents it."""


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
    fields = _object(body, "message")
    kind = _text(fields, "msgtype")
    if kind == "stream":
        return StreamPoll(_text(_object(fields.get("stream"), "stream"), "id"))
    user = _text(_object(fields.get("from"), "from"), "userid")
    bot, chat = _text(fields, "aibotid", optional=True), _text(fields, "chatid", optional=True)
    if kind == "event":
        return _event(fields, bot, chat, user, reply_to)
    parts = _Parts()
    _read_part(fields, kind, parts)
    return Inbound(
        PLATFORM,
        bot,
        user,
        _text(fields, "msgid"),
        chat=chat if fields.get("chattype") != "single" else "",
        text="\n".join(filter(None, parts.texts)),
        files=tuple(parts.files),
        quote=_quote(fields.get("quote")),
        unsupported=parts.unsupported,
        reply_to=reply_to or _text(fields, "response_url", optional=True),
    )


def _event(fields: Mapping[str, Any], bot: str, chat: str, user: str, reply_to: str) -> Parsed:
    event = _object(fields.get("event"), "event")
    name = _text(event, "eventtype")
    if name == "enter_chat":
        message_id = _text(fields, "msgid", optional=True) or f"{user} {fields.get('create_time', '')}"
        return Inbound(PLATFORM, bot, user, message_id, chat=chat, reply_to=reply_to, kind="enter_chat")
    if name == "feedback_event":
        feedback = _object(event.get("feedback_event", event), "feedback_event")
        reasons = feedback.get("inaccurate_reason_list") or []
        return Rating(
            user,
            _text(feedback, "id", optional=True),
            feedback["type"] if isinstance(feedback.get("type"), int) else 0,
            _text(feedback, "content", optional=True),
            tuple(reason for reason in reasons if isinstance(reason, int)) if isinstance(reasons, list) else (),
        )
    return OtherEvent(name)


def _quote(value: Any) -> Quote | None:
    if value is None:
        return None
    fields = _object(value, "quote")
    parts = _Parts()
    _read_part(fields, _text(fields, "msgtype"), parts)
    return Quote("\n".join(filter(None, parts.texts)), tuple(parts.files))


def _read_part(fields: Mapping[str, Any], kind: str, parts: _Parts, *, nested: bool = False) -> None:
    """Adds the text or the file of a message, a quote or an item of a mixed message."""
    if kind not in _READABLE or (kind == "mixed" and nested):
        parts.unsupported = parts.unsupported or kind
        return
    content = _object(fields.get(kind), kind)
    match kind:
        case "text" | "voice":  # WeCom sends a voice message as its text
            parts.texts.append(_text(content, "content", optional=True))
        case "image" | "file":
            parts.files.append(FileRef(_text(content, "url"), _text(content, "aeskey", optional=True), kind == "file"))
        case "mixed":
            items = content.get("msg_item")
            if not isinstance(items, list):
                raise MessageError("The mixed message has no list msg_item.")
            for item in items:
                each = _object(item, "msg_item")
                _read_part(each, _text(each, "msgtype"), parts, nested=True)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MessageError(f"The field '{name}' is not an object.")
    return value


def _text(fields: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    value = fields.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str) or (not value and not optional):
        raise MessageError(f"The field '{name}' is not a text.")
    return value
