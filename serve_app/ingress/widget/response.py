"""The response of /v1/widget/tokens."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class WidgetTokenReply(TypedDict):
    """`expires_at` is in seconds since 1970."""

    object: Literal["widget.token"]
    token: str
    origin: str
    expires_at: int
