"""The answers to one request: asked at once, told as one stream of events, written in the record.

One failure fails all of them and stops the others; a reader who stops, stops all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol, TypeAlias

from serve_app.contracts import Answer, ChatRequest, Event, Finished, Started, Usage
from serve_app.errors import EngineFailed


class Observer(Protocol):
    """Sees the events of the answers, for example to log and measure them."""

    answers: int

    def note(self, event: Event) -> None: ...


Numbered: TypeAlias = AsyncGenerator[tuple[int, Event], None]  # (which answer, event)


async def answers(answer: Answer, requests: Sequence[ChatRequest], record: Observer) -> Numbered:
    """The events of all answers in the order in which they happen; closed when their reader stops."""
    record.answers = len(requests)
    finished: dict[int, Finished] = {}
    telling = _one(answer, requests[0]) if len(requests) == 1 else _begun_together(_all(answer, requests), requests)
    async with aclosing(telling):
        async for index, event in telling:
            if isinstance(event, Finished):
                finished[index] = event
                if len(finished) == len(requests):
                    record.note(together([finished[number] for number in range(len(requests))]))
            else:
                record.note(event)
            yield index, event
    if len(finished) < len(requests):
        raise EngineFailed("The answer broke off before its end.")


async def _one(answer: Answer, request: ChatRequest) -> Numbered:
    async with aclosing(answer(request)) as events:
        async for event in events:
            yield 0, event


async def _all(answer: Answer, requests: Sequence[ChatRequest]) -> Numbered:
    """Each answer has a task of its own that puts its events into one queue, and then itself."""
    told: asyncio.Queue[tuple[int, Event] | asyncio.Task[None]] = asyncio.Queue()

    async def tell(index: int, request: ChatRequest) -> None:
        async with aclosing(answer(request)) as events:
            async for event in events:
                told.put_nowait((index, event))

    tasks = [asyncio.create_task(tell(index, request)) for index, request in enumerate(requests)]
    for task in tasks:
        task.add_done_callback(told.put_nowait)
    ended = 0
    try:
        while ended < len(tasks):
            item = await told.get()
            if isinstance(item, tuple):
                yield item
                continue
            if item.cancelled():  # not by us: what it waited for was stopped
                raise EngineFailed("The work on this answer was stopped.")
            item.result()
            ended += 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _begun_together(events: Numbered, requests: Sequence[ChatRequest]) -> Numbered:
    """Holds back `Started` until all have started or one has text.

    A later answer that is refused at once, because the queue is full, then still has its HTTP status.
    """
    held: list[tuple[int, Event]] = []
    holding = True
    async with aclosing(events):
        async for index, event in events:
            if holding:
                held.append((index, event))
                if isinstance(event, Started) and len(held) < len(requests):
                    continue
                holding = False
                for each in held:
                    yield each
            else:
                yield index, event


def together(finished: Sequence[Finished]) -> Finished:
    """The end of several answers as the end of one: the prompt counts once, a stage is the longest of its kind."""
    usages = [each.usage for each in finished]
    stages = dict.fromkeys(stage for each in finished for stage in each.stages_ms)  # in their order
    return Finished(
        finished[0].reason,
        Usage(
            usages[0].prompt_tokens,
            sum(usage.completion_tokens for usage in usages),
            usages[0].image_tokens,
            sum(usage.reasoning_tokens for usage in usages),
        ),
        {stage: max(each.stages_ms.get(stage, 0.0) for each in finished) for stage in stages},
        finished[0].boxed,
    )
