"""Megabytes of pixels go to the engine through the object store, ahead of their prompt; failures on that way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from serve_app.contracts import ChatRequest, Delta, Event, Finished, Message, Picture, Prompt, Started, TextPart, Usage
from serve_app.errors import EngineFailed
from serve_app.pipeline import Pipeline
from serve_app.replies import PixelsNeeded
from serve_app.seen_pictures import LARGE_PIXELS
from tests.test_pipeline import FakeHandle


class Service:
    """The pipeline over an engine whose answers may begin with pixels that come ahead; its calls are noted."""

    def __init__(self, side: int = 1000) -> None:
        self.side = side
        self.calls: list[tuple[str, bool]] = []  # method, and whether its (last) prompt had all pixels
        self.forgets = False  # as if the prompt went to another replica
        self.begin_error: Exception | None = None
        self.engine = FakeHandle(generate=self._generate, begin=lambda *prompts: partial(self._begin, *prompts))
        preprocess = FakeHandle(prepare=lambda request, unsent, again: partial(self._prepare, request))
        self.pipeline = Pipeline(preprocess, self.engine)  # type: ignore[arg-type]
        self._begun = False

    async def _prepare(self, request: ChatRequest) -> Prompt:
        picture = Picture(np.zeros((self.side, self.side, 3), np.uint8), "d", 1, (self.side, self.side))
        return Prompt(request.id, np.arange(3, dtype=np.int32), (picture,), request.sampling, request.deadline_s)

    async def _begin(self, light: Prompt, prompt: Prompt) -> None:
        self.calls.append(("begin", prompt.has_all_pixels))
        assert (light.id, light.has_all_pixels) == (prompt.id, False)
        if self.begin_error is not None:
            raise self.begin_error
        self._begun = not self.forgets

    async def _generate(self, prompt: Prompt) -> AsyncGenerator[Event | PixelsNeeded, None]:
        self.calls.append(("generate", prompt.has_all_pixels))
        if not prompt.has_all_pixels and not self._begun:
            yield PixelsNeeded(("d",))
            return
        yield Started(3, 1)
        yield Delta("Yes.", 1)
        yield Finished("stop", Usage(3, 1))

    async def ask(self) -> str:
        request = ChatRequest("r", (Message("user", (TextPart("Is it?"),)),))
        async with aclosing(self.pipeline.answer(request)) as events:
            return "".join([event.text async for event in events if isinstance(event, Delta)])


async def test_megabytes_of_pixels_go_ahead_by_reference_and_the_prompt_follows_as_a_message() -> None:
    service = Service()
    assert await service.ask() == "Yes."
    assert service.calls == [("begin", True), ("generate", False)]
    assert [options["_by_reference"] for options, *_ in service.engine.calls] == [True, False]


async def test_fewer_pixels_go_with_the_prompt() -> None:
    service = Service(side=int((LARGE_PIXELS / 3) ** 0.5))
    assert await service.ask() == "Yes."
    assert service.calls == [("generate", True)]


async def test_a_replica_that_did_not_get_the_pixels_ahead_gets_them_with_the_prompt() -> None:
    service = Service()
    service.forgets = True
    assert await service.ask() == "Yes."
    assert service.calls == [("begin", True), ("generate", False), ("generate", True)]


async def test_a_replica_that_dies_while_pixels_go_ahead_is_replaced_by_one_that_gets_them_with_the_prompt() -> None:
    service = Service()
    service.begin_error = ActorDiedError()
    assert await service.ask() == "Yes."
    assert service.calls == [("begin", True), ("generate", True)]


async def test_another_error_while_pixels_go_ahead_is_the_answers() -> None:
    service = Service()
    service.begin_error = EngineFailed("The engine has stopped.")
    with pytest.raises(EngineFailed, match="has stopped"):
        await service.ask()
    assert service.calls == [("begin", True)]


async def test_closing_the_answer_while_pixels_go_ahead_cancels_that_call() -> None:
    service = Service()
    began = asyncio.Event()

    async def never() -> None:
        began.set()
        await asyncio.Event().wait()

    service.engine.methods["begin"] = lambda *prompts: never
    task = asyncio.create_task(service.ask())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ((options, _, call),) = service.engine.calls
    assert options["method_name"] == "begin"
    assert call.cancelled
