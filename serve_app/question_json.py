"""A request's question as JSON without pictures, for the audit log and for feedback."""

from __future__ import annotations

import json
from typing import Any

from serve_app.contracts import ChatRequest, ImagePart, TextPart


def question_json(request: ChatRequest) -> Any:
    """The conversation, with `<picture>` and `<file>` in place of them, or the text or token ids to continue."""
    if request.text is not None:
        return printable(request.text) if isinstance(request.text, str) else list(request.text)
    messages = []
    for message in request.messages:
        parts: list[str] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                parts.append(printable(part.text))
            else:
                parts.append("<picture>" if isinstance(part, ImagePart) else "<file>")
        calls = [{"name": call.name, "arguments": json.dumps(call.arguments)} for call in message.tool_calls]
        messages.append({"role": message.role, "parts": parts, **({"tool_calls": calls} if calls else {})})
    return messages


def printable(text: str) -> str:
    """The text with halves of characters replaced, which UTF-8 can't hold."""
    return text.encode("utf-8", "replace").decode()
