"""The replies of /v1/responses: the response object, its output items, and the events of a stream."""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from serve_app.ingress.fields.logprobs import OutputLogprob
from serve_app.ingress.fields.usage import BoxedReply, ImageReply

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class ReasoningTextPart(TypedDict):
    """The model's reasoning, as it was drawn."""

    type: Literal["reasoning_text"]
    text: str


class OutputTextPart(TypedDict):
    """The answer's text."""

    type: Literal["output_text"]
    text: str
    annotations: list[None]
    logprobs: list[OutputLogprob]


class ReasoningOutput(TypedDict):
    """How the model came to its answer."""

    id: str
    type: Literal["reasoning"]
    summary: list[None]
    content: list[ReasoningTextPart]
    status: ItemStatus


class MessageOutput(TypedDict):
    """The answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[OutputTextPart]
    status: ItemStatus


class FunctionCallOutput(TypedDict):
    """A call that the model asks for; `arguments` is a JSON object, as text."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


OutputItem: TypeAlias = ReasoningOutput | MessageOutput | FunctionCallOutput


class InputTokensDetails(TypedDict):
    """What the prompt's tokens stand for."""

    cached_tokens: int
    cache_write_tokens: int
    image_tokens: int
    text_tokens: int


class OutputTokensDetails(TypedDict):
    """What the answer's tokens are."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Counted from token ids."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(TypedDict):
    """Why there is no answer; `code` is one of OpenAI's."""

    code: str
    message: str


class IncompleteDetails(TypedDict):
    """Why the answer stops short."""

    reason: Literal["max_output_tokens"]


class ReasoningReply(TypedDict):
    """What was asked of the reasoning."""

    effort: str | None
    summary: None


class ResponseReply(TypedDict):
    """A response with what was asked of it; `timings`, `images` and `boxes` are ours, the rest OpenAI's."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: ReasoningReply
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
    timings: NotRequired[dict[str, float]]
    images: NotRequired[list[ImageReply]]
    boxes: NotRequired[list[BoxedReply]]


# -- events of a stream -----------------------------------------------------------------------------


class ResponseEvent(TypedDict):
    """The response began, goes on, or ended."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    sequence_number: int
    response: ResponseReply


class ItemEvent(TypedDict):
    """An output item began or ended."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(TypedDict):
    """A part of an item began or ended."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputTextPart | ReasoningTextPart


class TextDeltaEvent(TypedDict):
    """New text of the answer."""

    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[OutputLogprob]


class TextDoneEvent(TypedDict):
    """The answer's text, whole."""

    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[OutputLogprob]


class ReasoningDeltaEvent(TypedDict):
    """New reasoning."""

    type: Literal["response.reasoning_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningDoneEvent(TypedDict):
    """The reasoning, whole."""

    type: Literal["response.reasoning_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


class ArgumentsDeltaEvent(TypedDict):
    """A piece of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(TypedDict):
    """A call's arguments, whole."""

    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str


class ErrorEvent(TypedDict):
    """A failure after the stream began; `response.failed` follows it."""

    type: Literal["error"]
    sequence_number: int
    code: str
    message: str
    param: str | None


STREAM_EVENTS: Final = (
    ResponseEvent,
    ItemEvent,
    PartEvent,
    TextDeltaEvent,
    TextDoneEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ErrorEvent,
)
