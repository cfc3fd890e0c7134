"""Reads Feishu's event `im.message.receive_v1`: texts, pictures, posts (text with pictures) and files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from serve_app.bots.conversation.message import FileRef, Inbound, Quote
from serve_app.bots.json_fields import MessageError, read_object, read_text

PLATFORM: Final = "feishu"
RECEIVE: Final = "im.message.receive_v1"
MAX_MENTIONS: Final = 100
_ID: Final = re.compile(r"[A-Za-z0-9_\-]{1,256}")  # ids become parts of addresses


@dataclass(frozen=True, slots=True)
class Event:
    """A message, or None if it needs no answer; the message that it replies to is fetched separately."""

    message: Inbound | None
    created_at: float = 0.0  # seconds since 1970
    parent_id: str = ""


@dataclass(slots=True)
class _Parts:
    """What the parts of a message contain together."""

    message_id: str
    texts: list[str] = field(default_factory=list)
    files: list[FileRef] = field(default_factory=list)
    unsupported: str = ""


def parse_event(body: Mapping[str, Any], bot_open_id: str) -> Event:
    """The message of a decrypted event. Raises MessageError.

    In a group only messages that mention the bot are for it; without its open_id, those that mention anyone.
    """
    header, event = read_object(body.get("header"), "header"), read_object(body.get("event"), "event")
    message, sender = read_object(event.get("message"), "message"), read_object(event.get("sender"), "sender")
    message_id = _id(message, "message_id")
    created = str(message.get("create_time") or "0")
    created_at = int(created[:16]) / 1000 if created.isascii() and created.isdigit() else 0.0
    if sender.get("sender_type", "user") != "user":  # another bot, or this one
        return Event(None, created_at)
    is_group = message.get("chat_type") != "p2p"
    mentions = _mentions(message.get("mentions"))
    to_bot = [each for each in mentions if _is_bot(each, bot_open_id)]
    if is_group and not (to_bot if bot_open_id else mentions):
        return Event(None, created_at)
    parts = _Parts(message_id)
    _read(read_text(message, "message_type"), read_text(message, "content"), parts)
    inbound = Inbound(
        PLATFORM,
        read_text(header, "app_id"),
        read_text(read_object(sender.get("sender_id"), "sender_id"), "open_id"),
        message_id,
        chat=read_text(message, "chat_id") if is_group else "",
        text=_without_mentions("\n".join(filter(None, parts.texts)), mentions, to_bot or mentions[:1]),
        files=tuple(parts.files),
        unsupported=parts.unsupported,
        reply_to=message_id,
    )
    parent = message.get("parent_id")
    return Event(inbound, created_at, parent if isinstance(parent, str) and _ID.fullmatch(parent) else "")


def parse_quote(item: Mapping[str, Any]) -> Quote:
    """The quoted message, as the API returns it. Raises MessageError."""
    parts = _Parts(_id(item, "message_id"))
    content = read_text(read_object(item.get("body"), "body"), "content")
    _read(read_text(item, "msg_type"), content, parts)
    return Quote("\n".join(filter(None, parts.texts)), tuple(parts.files))


def _read(kind: str, content: str, parts: _Parts) -> None:
    """Adds text and files of a message; `content` is JSON in a text."""
    try:
        fields = read_object(orjson.loads(content), "content")
    except orjson.JSONDecodeError as error:
        raise MessageError("The content of the message is not JSON.") from error
    if kind == "text":
        parts.texts.append(read_text(fields, "text", optional=True))
    elif kind == "image":
        parts.files.append(FileRef(parts.message_id, _id(fields, "image_key")))
    elif kind == "file":
        parts.files.append(FileRef(parts.message_id, _id(fields, "file_key"), is_document=True))
    elif kind == "post":
        _read_post(fields, parts)
    else:
        parts.unsupported = kind


def _read_post(fields: Mapping[str, Any], parts: _Parts) -> None:
    """Title and lines of a post; it may have them once for each language."""
    if "content" not in fields:
        fields = next((each for each in fields.values() if isinstance(each, dict) and "content" in each), fields)
    lines = fields.get("content")
    if not isinstance(lines, list) or not all(isinstance(line, list) for line in lines):
        raise MessageError("The post has no list of lines.")
    parts.texts.append(read_text(fields, "title", optional=True))
    for line in lines:
        texts = []
        for element in line:
            each = read_object(element, "element")
            match each.get("tag"):
                case "img":
                    parts.files.append(FileRef(parts.message_id, _id(each, "image_key")))
                case "at":
                    texts.append(read_text(each, "user_id", optional=True))  # a placeholder such as @_user_1
                case "text" | "a" | "md" | "code_block":
                    texts.append(read_text(each, "text", optional=True))
        parts.texts.append("".join(texts))


def _mentions(value: Any) -> list[Mapping[str, Any]]:
    mentions = value[:MAX_MENTIONS] if isinstance(value, list) else []
    return [each for each in mentions if isinstance(each, dict) and isinstance(each.get("key"), str)]


def _is_bot(mention: Mapping[str, Any], bot_open_id: str) -> bool:
    if not bot_open_id:
        return mention.get("mentioned_type") == "bot"
    ids = mention.get("id")
    return isinstance(ids, dict) and ids.get("open_id") == bot_open_id


def _without_mentions(text: str, mentions: Sequence[Mapping[str, Any]], bots: Sequence[Mapping[str, Any]]) -> str:
    """The text without mentions of the bot; others become `@name`. Placeholders are `@_user_1`, `@_user_2`, …"""
    for mention in sorted(mentions, key=lambda each: len(each["key"]), reverse=True):  # @_user_10 before @_user_1
        name = mention.get("name")
        text = text.replace(mention["key"], "" if mention in bots or not name else f"@{name}")
    return text.strip()


def _id(fields: Mapping[str, Any], name: str) -> str:
    value = read_text(fields, name)
    if not _ID.fullmatch(value):
        raise MessageError(f"The field '{name}' is not an id.")
    return value
