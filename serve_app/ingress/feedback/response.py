"""The response of /v1/feedback."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class FeedbackReply(TypedDict):
    """`removed`: how many answers were removed from the answer cache; 0 if it did not have the answer."""

    id: str
    rating: Literal["up", "down"]
    removed: int
