"""The events of a streaming /v1/responses, as OpenAI defines them."""

from __future__ import annotations

from typing import Final, Literal

from typing_extensions import TypedDict

from serve_app.ingress.fields.logprobs import OutputLogprob
from serve_app.ingress.responses.output_items import OutputItem, OutputTextPart, ReasoningTextPart
from serve_app.ingress.responses.response import ResponseReply


class ResponseEvent(TypedDict):
    """The response started, continues, or ended."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    sequence_number: int
    response: ResponseReply


class ItemEvent(TypedDict):
    """An output item started or ended."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(TypedDict):
    """A part of an item started or ended."""

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
    """The answer's complete text."""

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
    """The complete reasoning."""

    type: Literal["response.reasoning_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


class ArgumentsDeltaEvent(TypedDict):
    """A piece of a tool call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(TypedDict):
    """A tool call's complete arguments."""

    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str


class ErrorEvent(TypedDict):
    """An error after the stream started; `response.failed` follows it."""

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
