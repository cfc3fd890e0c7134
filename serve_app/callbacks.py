"""Callbacks of chat platforms: what ingress passes to the bots, and what they reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

CALLBACK_PREFIX: Final = "/bots/"
MAX_CALLBACK_BYTES: Final = 2**20
CALLBACK_TIMEOUT_S: Final = 4.5  # chat platforms wait for 5 s, or less, and send the callback again


@dataclass(frozen=True, slots=True)
class Callback:
    """An HTTP request of a chat platform."""

    path: str  # below CALLBACK_PREFIX, such as wecom/bot
    method: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # names in small letters
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class CallbackReply:
    """The HTTP response to it."""

    body: bytes = b""
    content_type: str = "text/plain"
    status: int = 200


RespondToCallback: TypeAlias = Callable[[Callback], Awaitable[CallbackReply]]
