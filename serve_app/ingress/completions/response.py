"""The replies of /v1/completions: OpenAI's, whole and streamed of one shape."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from serve_app.contracts import FinishReason
from serve_app.ingress.fields.logprobs import CompletionLogprobs
from serve_app.ingress.fields.usage import UsageReply


class CompletionChoice(TypedDict):
    """One of the texts, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(TypedDict):
    """A text gone on with; in a stream, one `data:` line, the usage in a last one without choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Literal["default"]]
    choices: list[CompletionChoice]
    usage: NotRequired[UsageReply | None]
    timings: NotRequired[dict[str, float]]
