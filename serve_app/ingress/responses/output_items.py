"""The output items of /v1/responses, and the stream events that describe how they grow.

The body of a non-streaming response takes the items, a stream takes the events; both come from `OutputItems`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from serve_app.contracts import Delta, Event, Finished, Started, TokenLogprob, ToolCallDelta
from serve_app.ingress.fields.logprobs import OutputLogprob, output_logprobs
from serve_app.ingress.responses.input_items import REASONING_ID

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
StreamEvent: TypeAlias = dict[str, Any]  # one of events.py, without its sequence number


class ReasoningTextPart(TypedDict):
    """The model's reasoning."""

    type: Literal["reasoning_text"]
    text: str


class SummaryTextPart(TypedDict):
    """The model's reasoning, where the request asked for a summary; it is complete."""

    type: Literal["summary_text"]
    text: str


class OutputTextPart(TypedDict):
    """The answer's text."""

    type: Literal["output_text"]
    text: str
    annotations: list[None]
    logprobs: list[OutputLogprob]


class ReasoningOutput(TypedDict):
    """The reasoning before an answer."""

    id: str
    type: Literal["reasoning"]
    summary: list[SummaryTextPart]
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
    """A tool call of the model; `arguments` is a JSON object, as text."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


OutputItem: TypeAlias = ReasoningOutput | MessageOutput | FunctionCallOutput


# -- from events ----------------------------------------------------------------------------------


class OutputItems:
    """The items of one answer: `items` are complete, one more may be in progress."""

    def __init__(self, new_id: Callable[[], str], *, summary: bool = False) -> None:
        self._new_id = new_id
        self._reasoning_builder = _SummaryBuilder if summary else _ReasoningBuilder
        self._current: _ItemBuilder | None = None
        self.items: list[OutputItem] = []

    def add(self, event: Event) -> Iterator[StreamEvent]:
        """Takes an event of the answer; yields what it changed."""
        match event:
            case Started():
                pass
            case Delta(channel="reasoning"):
                if not isinstance(self._current, self._reasoning_builder):
                    yield from self._start(self._reasoning_builder(f"{REASONING_ID}{self._new_id()}"))
                yield from self._append(event.text)
            case Delta():
                if not isinstance(self._current, _TextBuilder):
                    yield from self._start(_TextBuilder(f"msg_{self._new_id()}"))
                yield from self._append(event.text, event.logprobs)
            case ToolCallDelta():
                if event.name is not None:
                    yield from self._start(_CallBuilder(f"fc_{self._new_id()}", f"call_{self._new_id()}", event.name))
                if event.arguments:
                    yield from self._append(event.arguments)
            case Finished():
                if not self.items and self._current is None:  # an answer without text still has a message
                    yield from self._start(_TextBuilder(f"msg_{self._new_id()}"))
                yield from self.end("incomplete" if event.reason == "length" else "completed")

    def end(self, status: ItemStatus) -> Iterator[StreamEvent]:
        """Completes the item in progress, if there is one."""
        if self._current is not None:
            yield from self._current.end(len(self.items), status)
            self.items.append(self._current.item(status))
            self._current = None

    def _start(self, builder: _ItemBuilder) -> Iterator[StreamEvent]:
        yield from self.end("completed")
        self._current = builder
        yield from builder.start(len(self.items))

    def _append(self, piece: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[StreamEvent]:
        assert self._current is not None
        yield self._current.append(len(self.items), piece, logprobs)


class _ItemBuilder(ABC):
    """An item while its text, reasoning or arguments are generated; `index` is its place in the output."""

    event_name: str

    def __init__(self, id: str) -> None:
        self.id = id
        self._pieces: list[str] = []

    @abstractmethod
    def item(self, status: ItemStatus) -> OutputItem: ...

    def start(self, index: int) -> Iterator[StreamEvent]:
        yield {"type": "response.output_item.added", "output_index": index, "item": self.item("in_progress")}

    def append(self, index: int, piece: str, logprobs: Sequence[TokenLogprob]) -> StreamEvent:
        self._pieces.append(piece)
        return {"type": f"{self.event_name}.delta", **self._place(index), "delta": piece}

    def end(self, index: int, status: ItemStatus) -> Iterator[StreamEvent]:
        yield {"type": "response.output_item.done", "output_index": index, "item": self.item(status)}

    def _place(self, index: int) -> StreamEvent:
        return {"item_id": self.id, "output_index": index}

    @property
    def _text(self) -> str:
        return "".join(self._pieces)


class _OnePartBuilder(_ItemBuilder):
    """An item whose content is one part."""

    part_event = "response.content_part"
    place_of_part = "content_index"

    @abstractmethod
    def part(self) -> OutputTextPart | ReasoningTextPart | SummaryTextPart: ...

    def start(self, index: int) -> Iterator[StreamEvent]:
        yield from super().start(index)
        yield {"type": f"{self.part_event}.added", **self._place(index), "part": self.part()}

    def end(self, index: int, status: ItemStatus) -> Iterator[StreamEvent]:
        yield self.text_done(index)
        yield {"type": f"{self.part_event}.done", **self._place(index), "part": self.part()}
        yield from super().end(index, status)

    def text_done(self, index: int) -> StreamEvent:
        return {"type": f"{self.event_name}.done", **self._place(index), "text": self._text}

    def _place(self, index: int) -> StreamEvent:
        return {**super()._place(index), self.place_of_part: 0}


class _ReasoningBuilder(_OnePartBuilder):
    event_name = "response.reasoning_text"

    def part(self) -> ReasoningTextPart:
        return {"type": "reasoning_text", "text": self._text}

    def item(self, status: ItemStatus) -> ReasoningOutput:
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "reasoning", "summary": [], "content": content, "status": status}


class _SummaryBuilder(_OnePartBuilder):
    event_name = "response.reasoning_summary_text"
    part_event = "response.reasoning_summary_part"
    place_of_part = "summary_index"

    def part(self) -> SummaryTextPart:
        return {"type": "summary_text", "text": self._text}

    def item(self, status: ItemStatus) -> ReasoningOutput:
        summary = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "reasoning", "summary": summary, "content": [], "status": status}


class _TextBuilder(_OnePartBuilder):
    event_name = "response.output_text"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._logprobs: list[TokenLogprob] = []

    def append(self, index: int, piece: str, logprobs: Sequence[TokenLogprob]) -> StreamEvent:
        self._logprobs += logprobs
        return {**super().append(index, piece, logprobs), "logprobs": output_logprobs(logprobs)}

    def text_done(self, index: int) -> StreamEvent:
        return {**super().text_done(index), "logprobs": output_logprobs(self._logprobs)}

    def part(self) -> OutputTextPart:
        logprobs = output_logprobs(self._logprobs)
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": logprobs}

    def item(self, status: ItemStatus) -> MessageOutput:
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "message", "role": "assistant", "content": content, "status": status}


class _CallBuilder(_ItemBuilder):
    event_name = "response.function_call_arguments"

    def __init__(self, id: str, call_id: str, function: str) -> None:
        super().__init__(id)
        self._call_id = call_id
        self._function = function

    def item(self, status: ItemStatus) -> FunctionCallOutput:
        return {
            "id": self.id,
            "type": "function_call",
            "call_id": self._call_id,
            "name": self._function,
            "arguments": self._text,
            "status": status,
        }

    def end(self, index: int, status: ItemStatus) -> Iterator[StreamEvent]:
        done = {"type": f"{self.event_name}.done", **self._place(index)}
        yield {**done, "name": self._function, "arguments": self._text}
        yield from super().end(index, status)
