"""An answer as the output items of /v1/responses, with the events that tell how they grow.

A whole reply takes the items, a stream tells the events; both come of this one machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from serve_app.contracts import Delta, Event, Finished, Started, TokenLogprob, ToolCallDelta
from serve_app.ingress.fields.logprobs import output_logprobs
from serve_app.ingress.responses.response import (
    FunctionCallOutput,
    ItemStatus,
    MessageOutput,
    OutputItem,
    OutputTextPart,
    ReasoningOutput,
    ReasoningTextPart,
)

Told: TypeAlias = dict[str, Any]  # an event without its sequence number


class Output:
    """The items of one answer; `items` are whole, one more may be growing."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._growing: _Growing | None = None
        self.items: list[OutputItem] = []

    def take(self, event: Event) -> list[Told]:
        """What changed by this event."""
        return list(self._changes(event))

    def stop(self) -> list[Told]:
        """The answer failed: the item that was growing ends as it is."""
        return list(self._end("incomplete"))

    def _changes(self, event: Event) -> Iterator[Told]:
        match event:
            case Started():
                pass
            case Delta(channel="reasoning"):
                if not isinstance(self._growing, _Reasoning):
                    yield from self._begin(_Reasoning(f"rs_{self._new_id()}"))
                yield from self._grow(event.text)
            case Delta():
                if not isinstance(self._growing, _Text):
                    yield from self._begin(_Text(f"msg_{self._new_id()}"))
                yield from self._grow(event.text, event.logprobs)
            case ToolCallDelta():
                if event.name is not None:
                    yield from self._begin(_Call(f"fc_{self._new_id()}", f"call_{self._new_id()}", event.name))
                if event.arguments:
                    yield from self._grow(event.arguments)
            case Finished():
                if not self.items and self._growing is None:  # an answer of no words is still an answer
                    yield from self._begin(_Text(f"msg_{self._new_id()}"))
                yield from self._end("incomplete" if event.reason == "length" else "completed")

    def _begin(self, growing: _Growing) -> Iterator[Told]:
        yield from self._end("completed")
        self._growing = growing
        yield from growing.begin(len(self.items))

    def _grow(self, piece: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Told]:
        assert self._growing is not None
        yield self._growing.grow(len(self.items), piece, logprobs)

    def _end(self, status: ItemStatus) -> Iterator[Told]:
        if self._growing is not None:
            yield from self._growing.end(len(self.items), status)
            self.items.append(self._growing.item(status))
            self._growing = None


class _Growing(ABC):
    """An item while its text, reasoning or arguments are drawn; `index` is its place in the output."""

    name: str  # of its events

    def __init__(self, id: str) -> None:
        self.id = id
        self._pieces: list[str] = []

    @abstractmethod
    def item(self, status: ItemStatus) -> OutputItem: ...

    def begin(self, index: int) -> Iterator[Told]:
        yield {"type": "response.output_item.added", "output_index": index, "item": self.item("in_progress")}

    def grow(self, index: int, piece: str, logprobs: Sequence[TokenLogprob]) -> Told:
        self._pieces.append(piece)
        return {"type": f"{self.name}.delta", **self._place(index), "delta": piece}

    def end(self, index: int, status: ItemStatus) -> Iterator[Told]:
        yield {"type": "response.output_item.done", "output_index": index, "item": self.item(status)}

    def _place(self, index: int) -> Told:
        return {"item_id": self.id, "output_index": index}

    @property
    def _whole(self) -> str:
        return "".join(self._pieces)


class _Parted(_Growing):
    """An item whose content is one part."""

    @abstractmethod
    def part(self) -> OutputTextPart | ReasoningTextPart: ...

    def begin(self, index: int) -> Iterator[Told]:
        yield from super().begin(index)
        yield {"type": "response.content_part.added", **self._place(index), "part": self.part()}

    def end(self, index: int, status: ItemStatus) -> Iterator[Told]:
        yield self.text_done(index)
        yield {"type": "response.content_part.done", **self._place(index), "part": self.part()}
        yield from super().end(index, status)

    def text_done(self, index: int) -> Told:
        return {"type": f"{self.name}.done", **self._place(index), "text": self._whole}

    def _place(self, index: int) -> Told:
        return {**super()._place(index), "content_index": 0}


class _Reasoning(_Parted):
    name = "response.reasoning_text"

    def part(self) -> ReasoningTextPart:
        return {"type": "reasoning_text", "text": self._whole}

    def item(self, status: ItemStatus) -> ReasoningOutput:
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "reasoning", "summary": [], "content": content, "status": status}


class _Text(_Parted):
    name = "response.output_text"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._logprobs: list[TokenLogprob] = []

    def grow(self, index: int, piece: str, logprobs: Sequence[TokenLogprob]) -> Told:
        self._logprobs += logprobs
        return {**super().grow(index, piece, logprobs), "logprobs": output_logprobs(logprobs)}

    def text_done(self, index: int) -> Told:
        return {**super().text_done(index), "logprobs": output_logprobs(self._logprobs)}

    def part(self) -> OutputTextPart:
        return {
            "type": "output_text",
            "text": self._whole,
            "annotations": [],
            "logprobs": output_logprobs(self._logprobs),
        }

    def item(self, status: ItemStatus) -> MessageOutput:
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "message", "role": "assistant", "content": content, "status": status}


class _Call(_Growing):
    name = "response.function_call_arguments"

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
            "arguments": self._whole,
            "status": status,
        }

    def end(self, index: int, status: ItemStatus) -> Iterator[Told]:
        done = {"type": f"{self.name}.done", **self._place(index), "name": self._function, "arguments": self._whole}
        yield done
        yield from super().end(index, status)
