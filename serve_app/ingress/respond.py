"""Answers on their way out: gathered into one JSON reply, or passed on as a stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve_app.answers import Numbered, answers
from serve_app.contracts import Answer, ChatRequest, Delta, Event, Finished, Started, TokenLogprob, ToolCallDelta
from serve_app.ingress.disconnect import while_present
from serve_app.ingress.request_log import Record, record_of
from serve_app.ingress.sse import EventStream


@dataclass(slots=True)
class Call:
    """A tool call: its name, and the pieces of its arguments."""

    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Gathered:
    """What one answer has said so far; `finished` when it is whole."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasonings)

    @property
    def end(self) -> Finished:
        assert self.finished is not None
        return self.finished

    def add(self, event: Event) -> None:
        match event:
            case Started():
                pass
            case Delta(channel="reasoning"):
                self.reasonings.append(event.text)
            case Delta():
                self.texts.append(event.text)
                self.logprobs += event.logprobs
            case ToolCallDelta():
                if event.name is not None:
                    self.calls.append(Call(event.name))
                self.calls[event.index].arguments.append(event.arguments)
            case Finished():
                self.finished = event


async def gathered(events: Numbered, answers: int) -> list[Gathered]:
    """All answers, whole."""
    whole = [Gathered() for _ in range(answers)]
    async with aclosing(events):
        async for index, event in events:
            whole[index].add(event)
    return whole


def json_reply(reply: Any, record: Record) -> Response:
    return Response(orjson.dumps(reply), headers={"Server-Timing": record.server_timing}, media_type="application/json")


class Telling(Protocol):
    """How a route tells its answers."""

    id: str

    def completion(self, whole: list[Gathered]) -> Any: ...

    def chunks(self, events: Numbered, answers: int) -> AsyncGenerator[Any, None]: ...


async def told(
    request: Request, answer: Answer, asked: Sequence[ChatRequest], telling: Telling, *, stream: bool
) -> Response:
    """The answers to `asked`, whole or as a stream."""
    record = record_of(request.scope)
    record.answer_id = telling.id
    events = answers(answer, asked, record)
    if stream:
        return EventStream(telling.chunks(events, len(asked)), record)
    return json_reply(
        telling.completion(await while_present(request.receive, record, gathered(events, len(asked)))), record
    )
