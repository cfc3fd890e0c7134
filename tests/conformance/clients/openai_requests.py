"""What the checks of OpenAI's Python client ask with: the client, messages, tools, a form."""

from __future__ import annotations

import json
from typing import Any, Literal

from harness import MODEL, TASK, URL, data_url
from openai import OpenAI
from pydantic import BaseModel, Field

CLIENT = OpenAI(base_url=URL, api_key="unused", timeout=120)
CHAT = {"model": MODEL, "temperature": 0, "max_tokens": 64}


class Finding(BaseModel):
    """What a paper says."""

    verdict: Literal["pass", "fail"]
    number: str = Field(pattern=r"^[A-Z]{2}[0-9]{6}$")
    stamped: bool


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def picture(name: str, detail: str = "auto") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(name), "detail": detail}}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


ASKED = user(picture("first"), text(TASK["question"]))
TOOLS = [{"type": "function", "function": {**tool, "strict": True}} for tool in TASK["tools"]]


def calls_of(message: Any) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in message.tool_calls or []
    ]
