"""The replies of /v1/chat/completions: OpenAI's, with reasoning, boxes, images and timings besides."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from serve_app.contracts import FinishReason
from serve_app.ingress.fields.logprobs import ChoiceLogprobs
from serve_app.ingress.fields.usage import BoxedReply, ImageReply, UsageReply


class FunctionReply(TypedDict):
    """What is to be called, and with what: a JSON object, as text."""

    name: str
    arguments: str


class ToolCallReply(TypedDict):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: FunctionReply


class AnswerMessage(TypedDict):
    """The answer as a message; no content if it is calls only. Reasoning has both names that clients read."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[None]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallReply]]
    boxes: NotRequired[list[BoxedReply]]


class Choice(TypedDict):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """A whole answer; `timings` in milliseconds and `images` are ours, the rest OpenAI's."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Literal["default"]]
    choices: list[Choice]
    usage: UsageReply
    timings: dict[str, float]
    images: NotRequired[list[ImageReply]]


class FunctionDelta(TypedDict, total=False):
    """The name, in a call's first piece; the arguments piece by piece."""

    name: str
    arguments: str


class ToolCallDeltaReply(TypedDict):
    """A piece of a call; the first has its id and its name."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class AnswerDelta(TypedDict, total=False):
    """What this chunk adds."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str
    reasoning: str
    tool_calls: list[ToolCallDeltaReply]
    boxes: list[BoxedReply]


class ChunkChoice(TypedDict):
    """A piece of one of the answers."""

    index: int
    delta: AnswerDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(TypedDict):
    """One `data:` line of a streamed answer; the usage chunk has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Literal["default"]]
    choices: list[ChunkChoice]
    usage: NotRequired[UsageReply | None]
    timings: NotRequired[dict[str, float]]
    images: NotRequired[list[ImageReply]]
