"""Reads DingTalk's messages to the robot, the same JSON in Stream mode and in callbacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from serve_app.bots.conversation.message import FileRef, Inbound, Quote
from serve_app.bots.json_fields import MessageError, read_object, read_text

PLATFORM: Final = "dingtalk"
GROUP: Final = "2"
_FILES: Final = frozenset({"picture", "file"})
_MILLISECONDS: Final = re.compile(r"[0-9]{1,16}")


@dataclass(slots=True)
class _Parts:
    """What the parts of a message contain together."""

    texts: list[str] = field(default_factory=list)
    files: list[FileRef] = field(default_factory=list)
    unsupported: str = ""


def parse_message(body: Any) -> Inbound:
    """The message of a callback or a frame. Raises MessageError."""
    fields = read_object(body, "message")
    kind, parts = read_text(fields, "msgtype"), _Parts()
    quote = None
    if kind == "text":
        content = read_object(fields.get("text"), "text")
        parts.texts.append(read_text(content, "content", optional=True))
        quote = _quote(content)
    else:
        _read(kind, read_object(fields.get("content") or {}, "content"), parts)
    is_group = str(fields.get("conversationType")) == GROUP
    user = read_text(fields, "senderStaffId", optional=True) or read_text(fields, "senderId")  # guests have no staff id
    return Inbound(
        PLATFORM,
        read_text(fields, "robotCode", optional=True),
        user,
        read_text(fields, "msgId"),
        chat=read_text(fields, "conversationId") if is_group else "",
        text="\n".join(filter(None, parts.texts)).strip(),
        files=tuple(parts.files),
        quote=quote,
        unsupported=parts.unsupported,
        reply_to=_reply_to(fields),
    )


def session_webhook(reply_to: str) -> tuple[str, float]:
    """The address for replies, and until when it is valid, in seconds since 1970."""
    expires, _, url = reply_to.partition(" ")
    return url, int(expires or 0) / 1000


def _reply_to(fields: Mapping[str, Any]) -> str:
    url, expires = read_text(fields, "sessionWebhook", optional=True), fields.get("sessionWebhookExpiredTime")
    return f"{expires} {url}" if url and _MILLISECONDS.fullmatch(str(expires)) else ""


def _quote(text: Mapping[str, Any]) -> Quote | None:
    """The message that a text replies to, if DingTalk sends its content."""
    replied = text.get("repliedMsg")
    if not text.get("isReplyMsg") or not isinstance(replied, dict):
        return None
    content = replied.get("content")
    parts = _Parts()
    _read(read_text(replied, "msgType", optional=True), content if isinstance(content, dict) else {}, parts)
    return Quote("\n".join(filter(None, parts.texts)), tuple(parts.files))


def _read(kind: str, content: Mapping[str, Any], parts: _Parts) -> None:
    """Adds the content of a message, of a quoted message or of an item of a rich text."""
    if kind in _FILES:
        code = read_text(content, "downloadCode", optional=True) or read_text(content, "pictureDownloadCode")
        parts.files.append(FileRef(code, is_document=kind == "file"))
    elif kind == "text":
        name = "text" if "text" in content else "content"  # quoted texts have either
        parts.texts.append(read_text(content, name, optional=True))
    elif kind == "audio":  # DingTalk sends a voice message with its text
        parts.texts.append(read_text(content, "recognition", optional=True))
        parts.unsupported = "" if parts.texts[-1] else kind
    elif kind == "richText":
        items = content.get("richText")
        if not isinstance(items, list):
            raise MessageError("The rich text has no list richText.")
        for item in items:
            each = read_object(item, "richText")
            has_file = "downloadCode" in each or "pictureDownloadCode" in each
            _read("picture" if has_file else "text", each, parts)
    else:
        parts.unsupported = kind or "unknown"
