"""The replies of /v1/ask: one answer as one object, or in pieces."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from serve_app.contracts import FinishReason
from serve_app.ingress.fields.usage import BoxedReply, ImageReply, UsageReply


class AskReply(TypedDict):
    """A whole answer of /v1/ask; in a stream, the last event."""

    id: str
    model: str
    answer: str
    reasoning: NotRequired[str]
    boxes: NotRequired[list[BoxedReply]]
    finish_reason: FinishReason
    usage: UsageReply
    images: NotRequired[list[ImageReply]]
    timings: dict[str, float]


class AskDelta(TypedDict):
    """New text of a streamed /v1/ask."""

    delta: str


class AskReasoning(TypedDict):
    """New reasoning of a streamed /v1/ask."""

    reasoning: str
