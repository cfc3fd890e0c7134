"""The JSON bodies that go out, typed: checked by mypy here, shown in the OpenAPI document.

Typed dictionaries and not models: a reply is built from numbers and texts of our own, so there is
nothing to validate, and a stream builds one for each piece of text.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from serve_app.contracts import FinishReason, Usage


class ErrorDetail(TypedDict):
    """What went wrong: a sentence, OpenAI's type, the field at fault and a stable code."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(TypedDict):
    """Every failure, from every route."""

    error: ErrorDetail


class PromptTokensDetails(TypedDict):
    """What the prompt's tokens stand for."""

    cached_tokens: int
    image_tokens: int
    text_tokens: int


class UsageReply(TypedDict):
    """Counted from token ids."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class AnswerMessage(TypedDict):
    """The answer as a message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(TypedDict):
    """The one answer."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """A whole answer; `timings` in milliseconds is ours, the rest OpenAI's."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: UsageReply
    timings: dict[str, float]


class AnswerDelta(TypedDict, total=False):
    """What this chunk adds."""

    role: Literal["assistant"]
    content: str


class ChunkChoice(TypedDict):
    """The one answer, a piece of it."""

    index: Literal[0]
    delta: AnswerDelta
    logprobs: None
    finish_reason: FinishReason | None


class ChatCompletionChunk(TypedDict):
    """One `data:` line of a streamed answer; the usage chunk has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[UsageReply | None]
    timings: NotRequired[dict[str, float]]


class AskReply(TypedDict):
    """A whole answer of /v1/ask; in a stream, the last event."""

    id: str
    model: str
    answer: str
    finish_reason: FinishReason
    usage: UsageReply
    timings: dict[str, float]


class AskDelta(TypedDict):
    """New text of a streamed /v1/ask."""

    delta: str


class ModelReply(TypedDict):
    """The served model: OpenAI's four fields, then what clients of a vision service need."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    context_length: int
    abilities: list[str]
    family: str
    parameters: int
    quantization: str
    dtype: str
    device: str


class ModelList(TypedDict):
    """The one served model, as a list."""

    object: Literal["list"]
    data: list[ModelReply]


class StatusReply(TypedDict):
    """Alive, or ready."""

    status: Literal["ok"]


def usage_reply(usage: Usage) -> UsageReply:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": 0,
            "image_tokens": usage.image_tokens,
            "text_tokens": usage.prompt_tokens - usage.image_tokens,
        },
    }


def errors_documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can fail with these statuses."""
    documented: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorReply, "description": _ERRORS[status]} for status in statuses
    }
    return {**documented, "default": {"model": ErrorReply, "description": "Any other failure, in the same shape."}}


_ERRORS = {
    400: "The request can't be understood, is not supported, or its picture or length is refused.",
    404: "The model is not served here.",
    413: "The body is larger than the limit.",
    429: "The caller used up its allowance; Retry-After says when to come back.",
    500: "The service failed on this request.",
    503: "The service has as much work as it accepts, or is not ready; Retry-After says when to come back.",
    504: "The answer was not ready in time.",
}
