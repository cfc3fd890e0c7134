"""The answers to one request, for every API: merges the choices, collects text, counts usage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from serve_app.contracts import (
    Answer,
    ChatRequest,
    Delta,
    Event,
    Finished,
    PictureSeen,
    Started,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from serve_app.errors import EngineFailed, ReplicaLost

Clock: TypeAlias = Callable[[], float]
IndexedEvents: TypeAlias = AsyncGenerator[tuple[int, Event], None]  # (index of the choice, event)


class Observer(Protocol):
    """Is called for every event, for example to log and measure; all choices together have one `Finished`."""

    def observe(self, answers: Answers, event: Event) -> None: ...


class Audit(Protocol):
    """The audit of one request; `begin` and `end` may refuse the answer."""

    def add(self, index: int, event: Event) -> None: ...

    async def begin(self) -> None: ...

    async def end(self, total_ms: float) -> None: ...


class Answers:
    """The choices of one request while they are generated, with their usage, pictures and times so far.

    If one choice fails, all fail and the others are stopped; closing `events` early stops all.
    """

    def __init__(
        self,
        answer: Answer,
        requests: Sequence[ChatRequest],
        *,
        observers: Sequence[Observer] = (),
        audit: Audit | None = None,
        clock: Clock = time.monotonic,
        received_at: float | None = None,  # by `clock`: when the request came in
    ) -> None:
        self.started: Started | None = None  # of the choice that was first
        self.finished: Finished | None = None  # of all choices together
        self.tokens = 0  # generated so far, of all choices
        self.reasoning_tokens = 0  # of these
        self._started: dict[str, Started] = {}  # of each different prompt
        self._answer = answer
        self._requests = requests
        self._observers = observers
        self._audit = audit
        self._clock = clock
        self._received_at = clock() if received_at is None else received_at

    def __len__(self) -> int:
        """The number of choices."""
        return len(self._requests)

    @property
    def usage(self) -> Usage:
        """Tokens counted so far; a prompt that several choices share counts once."""
        if self.finished is not None:
            return self.finished.usage
        prompts = self._started.values()
        return Usage(
            sum(each.prompt_tokens for each in prompts),
            self.tokens,
            sum(each.image_tokens for each in prompts),
            self.reasoning_tokens,
        )

    @property
    def from_cache(self) -> bool | None:
        """Whether the answer cache had the answers; None if the cache was not used. Known after the first `Started`."""
        started = self._started.values()
        if not all(each.cache for each in started) or not started:
            return None
        return all(each.cache == "hit" for each in started)

    @property
    def pictures(self) -> tuple[PictureSeen, ...]:
        return self.started.pictures if self.started else ()

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of each stage that has ended; complete once the answers are finished."""
        known = self.finished or self.started
        return known.stages_ms if known else {}

    @property
    def total_ms(self) -> float:
        """Milliseconds since the request came in."""
        return (self._clock() - self._received_at) * 1000

    async def events(self) -> IndexedEvents:
        """The events of all choices in the order in which they happen."""
        finished: dict[int, Finished] = {}
        first = True
        async with aclosing(_stream(self._answer, self._requests)) as events:
            async for index, event in events:
                if isinstance(event, Finished):
                    finished[index] = event
                    if len(finished) == len(self):
                        self._add(index, merge([finished[number] for number in range(len(self))], self._prompts))
                else:
                    self._add(index, event)
                if self._audit is not None:
                    self._audit.add(index, event)
                    if first:
                        await self._audit.begin()
                    if self.finished is not None:
                        await self._audit.end(self.total_ms)
                first = False
                yield index, event
        if self.finished is None:
            raise EngineFailed("The answer stopped before its end.")

    async def collect(self) -> list[CollectedAnswer]:
        """All choices, complete; generated again if a replica dies, since nothing has been sent to the client."""
        try:
            return await self._collect()
        except ReplicaLost:
            self.started, self.finished, self.tokens, self.reasoning_tokens = None, None, 0, 0
            self._started.clear()
            return await self._collect()

    async def _collect(self) -> list[CollectedAnswer]:
        choices = [CollectedAnswer() for _ in self._requests]
        async with aclosing(self.events()) as events:
            async for index, event in events:
                choices[index].add(event)
        return choices

    @property
    def _prompts(self) -> list[str]:
        """The prompt of each choice; equal for those that share it."""
        return [request.group or request.id for request in self._requests]

    def _add(self, index: int, event: Event) -> None:
        match event:
            case Started():
                self.started = self.started or event
                self._started[self._prompts[index]] = event
            case Delta() | ToolCallDelta():
                self.tokens += event.tokens
                if isinstance(event, Delta) and event.channel == "reasoning":
                    self.reasoning_tokens += event.tokens
            case Finished():
                self.finished = event
        for observer in self._observers:
            observer.observe(self, event)


@dataclass(slots=True)
class CollectedCall:
    """A tool call: its name, and the pieces of its arguments."""

    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CollectedAnswer:
    """What one choice contains so far."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    calls: list[CollectedCall] = field(default_factory=list)
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
        """The terminal event of a complete answer."""
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
                    self.calls.append(CollectedCall(event.name))
                self.calls[event.index].arguments.append(event.arguments)
            case Finished():
                self.finished = event


def merge(finished: Sequence[Finished], prompts: Sequence[str]) -> Finished:
    """One terminal event for several choices: tokens are added up, a stage takes its longest time.

    `prompts` names the prompt of each choice; one that several choices share counts once.
    """
    usages = [each.usage for each in finished]
    different = dict(zip(prompts, usages, strict=True)).values()
    stages = dict.fromkeys(stage for each in finished for stage in each.stages_ms)  # in their order
    return Finished(
        finished[0].reason,
        Usage(
            sum(usage.prompt_tokens for usage in different),
            sum(usage.completion_tokens for usage in usages),
            sum(usage.image_tokens for usage in different),
            sum(usage.reasoning_tokens for usage in usages),
            sum(usage.cached_tokens for usage in different),
        ),
        {stage: max(each.stages_ms.get(stage, 0.0) for each in finished) for stage in stages},
        finished[0].boxed,
        finished[0].stop,
        sum(each.vram_bytes for each in finished),
        sum(each.device_ms for each in finished),
    )


def _stream(answer: Answer, requests: Sequence[ChatRequest]) -> IndexedEvents:
    return _one(answer, requests[0]) if len(requests) == 1 else _start_together(_all(answer, requests), len(requests))


async def _one(answer: Answer, request: ChatRequest) -> IndexedEvents:
    async with aclosing(answer(request)) as events:
        async for event in events:
            yield 0, event


async def _all(answer: Answer, requests: Sequence[ChatRequest]) -> IndexedEvents:
    """The events of all choices. Each has its own task, which puts its events and, at the end, itself into a queue."""
    queue: asyncio.Queue[tuple[int, Event] | asyncio.Task[None]] = asyncio.Queue()

    async def enqueue(index: int, request: ChatRequest) -> None:
        async with aclosing(answer(request)) as events:
            async for event in events:
                queue.put_nowait((index, event))

    tasks = [asyncio.create_task(enqueue(index, request)) for index, request in enumerate(requests)]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if isinstance(item, tuple):
                yield item
                continue
            if item.cancelled():  # not by us: the replica's work was stopped
                raise EngineFailed("The work on this answer was stopped.")
            item.result()
            running -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _start_together(events: IndexedEvents, choices: int) -> IndexedEvents:
    """Keeps `Started` events back until all choices have started or one has text.

    If a later choice is refused because the queue is full, the response still gets its HTTP status.
    """
    kept: list[tuple[int, Event]] = []
    async with aclosing(events):
        async for index, event in events:
            if len(kept) < choices and all(isinstance(each, Started) for _, each in kept):
                kept.append((index, event))
                if isinstance(event, Started) and len(kept) < choices:
                    continue
                for each in kept:
                    yield each
            else:
                yield index, event
