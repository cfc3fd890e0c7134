"""The events of a streaming /v1/responses, as OpenAI defines them."""

from __future__ import annotations

from typing import Final, Literal

from typing_extensions import TypedDict

from serve_app.ingress.fields.logprobs import OutputLogprob
from serve_app.ingress.responses.output_items import OutputItem, OutputTextPart, ReasoningTextPart, SummaryTextPart
from serve_app.ingress.responses.response import ResponseReply


class _Numbered(TypedDict):
    sequence_number: int


class _InItem(_Numbered):
    item_id: str
    output_index: int


class _InPart(_InItem):
    content_index: int


class ResponseEvent(_Numbered):
    """The response started, continues, or ended."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    response: ResponseReply


class ItemEvent(_Numbered):
    """An output item started or ended."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PartEvent(_InPart):
    """A part of an item started or ended."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputTextPart | ReasoningTextPart


class TextDeltaEvent(_InPart):
    """New text of the answer."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[OutputLogprob]


class TextDoneEvent(_InPart):
    """The answer's complete text."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[OutputLogprob]


class ReasoningDeltaEvent(_InPart):
    """New reasoning."""

    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningDoneEvent(_InPart):
    """The complete reasoning."""

    type: Literal["response.reasoning_text.done"]
    text: str


class _InSummary(_InItem):
    summary_index: int


class SummaryPartEvent(_InSummary):
    """The summary of reasoning started or ended."""

    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    part: SummaryTextPart


class SummaryDeltaEvent(_InSummary):
    """New reasoning, where the request asked for a summary."""

    type: Literal["response.reasoning_summary_text.delta"]
    delta: str


class SummaryDoneEvent(_InSummary):
    """The complete reasoning, where the request asked for a summary."""

    type: Literal["response.reasoning_summary_text.done"]
    text: str


class ArgumentsDeltaEvent(_InItem):
    """A piece of a tool call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDoneEvent(_InItem):
    """A tool call's complete arguments."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ErrorEvent(_Numbered):
    """An error after the stream started; `response.failed` follows it."""

    type: Literal["error"]
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
    SummaryPartEvent,
    SummaryDeltaEvent,
    SummaryDoneEvent,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ErrorEvent,
)
