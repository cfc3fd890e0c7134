"""The pipeline sends pixels only where the engine needs them; lost replicas, groups, the answer cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from ray.exceptions import ActorDiedError

from serve_app.cache.answer_cache import AnswerCache
from serve_app.caller import Caller
from serve_app.contracts import (
    ChatRequest,
    Delta,
    Event,
    Finished,
    ImagePart,
    Message,
    Picture,
    Prompt,
    Sampling,
    Started,
    TextPart,
    UnsentPixels,
    Usage,
)
from serve_app.errors import DeadlineExceeded, EngineFailed, Overloaded
from serve_app.metrics import SilentMeter
from serve_app.pipeline import Pipeline
from serve_app.replies import PixelsNeeded
from serve_app.seen_pictures import SeenPictures
from serve_app.settings_cache import CacheSettings
from serve_app.upload_digests import with_digests
from tests.test_pipeline import FakeHandle

LARGE = "data:image/jpeg;base64," + "A" * 200_000


def asking(name: str, *uploads: str | bytes, tenant: str = "t", **fields: Any) -> ChatRequest:
    parts = (*(ImagePart(upload) for upload in uploads or (LARGE,)), TextPart(name))
    return ChatRequest(name, (Message("user", parts),), caller=Caller(tenant=tenant), **fields)


class Preprocess:
    """Prepares requests: a picture's digest is its upload; known ones have no pixels where they may be left out."""

    def __init__(self) -> None:
        self.known: set[tuple[str, str | bytes]] = set()
        self.calls: list[tuple[str, bool, bool]] = []  # (request, unsent, again)
        self.error: Exception | None = None

    def prepare(self, request: ChatRequest, unsent: bool, again: bool) -> Any:
        return partial(self._prepare, request, unsent, again)

    async def _prepare(self, request: ChatRequest, unsent: bool, again: bool) -> Prompt:
        self.calls.append((request.id, unsent, again))
        await asyncio.sleep(0)
        if again and self.error is not None:
            raise self.error
        pictures = []
        for upload in request.uploads:
            key = (request.caller.tenant, upload)
            pixels: Any = np.zeros((2, 2, 3), dtype=np.uint8)
            if unsent and key in self.known:
                pixels = UnsentPixels((2, 2, 3))
            self.known.add(key)
            pictures.append(Picture(pixels, str(upload[-20:]), 1, (2, 2)))
        ids = np.frombuffer(request.id.encode(), dtype=np.uint8).astype(np.int32)
        return Prompt(
            request.id, ids, tuple(pictures), request.sampling, request.deadline_s, tenant=request.caller.tenant
        )


class Engine:
    """Replicas that know the pictures whose pixels they were sent; calls go to each in turn."""

    def __init__(self, replicas: int = 1) -> None:
        self.knows: list[set[str]] = [set() for _ in range(replicas)]
        self.prompts: list[Prompt] = []
        self.dies: list[int] = []  # calls, from 0, whose replica dies before the first text
        self.hold: asyncio.Event | None = None

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Event | PixelsNeeded, None]:
        number = len(self.prompts)
        self.prompts.append(prompt)
        known = self.knows[number % len(self.knows)]
        if self.hold is not None:
            await self.hold.wait()
        if number in self.dies:
            known.clear()
            raise ActorDiedError()
        missing = tuple(p.digest for p in prompt.pictures if not p.is_sent and p.digest not in known)
        if missing:
            yield PixelsNeeded(missing)
            return
        known |= {p.digest for p in prompt.pictures}
        yield Started(len(prompt.token_ids), len(prompt.pictures))
        yield Delta(f"{prompt.id} about {[p.digest for p in prompt.pictures]}", 1)
        yield Finished("stop", Usage(3, 1))

    @property
    def sent(self) -> list[list[bool]]:
        """Which pictures of each call had pixels."""
        return [[picture.is_sent for picture in prompt.pictures] for prompt in self.prompts]


class Service:
    """The pipeline over both."""

    def __init__(self, replicas: int = 1, cache: AnswerCache | None = None) -> None:
        self.preprocess, self.engine = Preprocess(), Engine(replicas)
        self.handle = FakeHandle(prepare=self.preprocess.prepare)
        self.engine_handle = FakeHandle(generate=self.engine.generate)
        self.pipeline = Pipeline(self.handle, self.engine_handle, cache)  # type: ignore[arg-type]

    async def ask(self, request: ChatRequest) -> list[Event]:
        async with aclosing(self.pipeline.answer(request)) as events:
            return [event async for event in events]

    @property
    def by_reference(self) -> list[bool]:
        return [options["_by_reference"] for options, *_ in self.handle.calls]


def text(events: list[Event]) -> str:
    assert [type(event) for event in events] == [Started, Delta, Finished]
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_a_follow_up_sends_no_pixels_and_its_prompt_is_a_message() -> None:
    service = Service()
    for name in ("first", "second"):
        assert text(await service.ask(asking(name))).startswith(name)
    assert service.engine.sent == [[True], [False]]
    assert service.preprocess.calls == [("first", True, False), ("second", True, False)]
    assert service.by_reference == [True, False]


async def test_a_follow_up_of_another_tenant_sends_its_own_pixels() -> None:
    service = Service()
    await service.ask(asking("first", tenant="t"))
    await service.ask(asking("second", tenant="u"))
    assert service.engine.sent == [[True], [True]]
    assert service.by_reference == [True, True]


async def test_pixels_that_the_engine_needs_are_prepared_again_and_nothing_is_seen_of_it() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.engine.knows[0].clear()  # evicted
    assert text(await service.ask(asking("second"))).startswith("second")
    assert service.engine.sent == [[True], [False], [True]]
    assert service.preprocess.calls[1:] == [("second", True, False), ("second", False, True)]
    assert service.by_reference == [True, False, True]


async def test_another_replica_gets_the_pixels_that_it_has_not() -> None:
    service = Service(replicas=2)
    await service.ask(asking("first"))  # by the first replica
    assert text(await service.ask(asking("second"))).startswith("second")  # the second asks, the first gets the pixels
    service.engine.knows[0].clear()
    assert text(await service.ask(asking("third"))).startswith("third")
    assert service.engine.sent == [[True], [False], [True], [False], [True]]


async def test_pixels_that_came_from_preprocess_are_not_prepared_twice() -> None:
    """Such as those of an address, or from a preprocess replica that did not know the picture."""
    service = Service()
    address = "https://a.b/c.jpg"
    for name in ("first", "second"):
        await service.ask(asking(name, address))
    service.engine.knows[0].clear()
    assert text(await service.ask(asking("third", address))).startswith("third")
    assert service.engine.sent == [[True], [False], [False], [True]]
    assert [call[1:] for call in service.preprocess.calls] == [(False, False)] * 3
    assert service.by_reference == [True] * 3


async def test_a_new_picture_beside_a_known_one_is_sent_alone() -> None:
    service = Service()
    await service.ask(asking("first", LARGE))
    await service.ask(asking("second", LARGE, LARGE + "B"))
    assert service.engine.sent == [[True], [False, True]]


async def test_a_replica_that_dies_before_it_asks_for_pixels_is_replaced_by_one_that_asks() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.engine.dies = [1]
    assert text(await service.ask(asking("second"))).startswith("second")
    assert service.engine.sent == [[True], [False], [False], [True]]


async def test_a_replica_that_dies_with_the_pixels_is_replaced_too() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.engine.knows[0].clear()
    service.engine.dies = [2]
    assert text(await service.ask(asking("second"))).startswith("second")
    assert service.engine.sent == [[True], [False], [True], [True]]


async def test_a_second_replica_that_dies_is_an_error() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.engine.dies = [1, 3]
    with pytest.raises(EngineFailed, match="died"):
        await service.ask(asking("second"))
    assert service.engine.sent == [[True], [False], [False], [True]]


async def test_an_error_of_the_second_preparation_is_the_answers() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.engine.knows[0].clear()
    service.preprocess.error = Overloaded("Too many pictures.")
    with pytest.raises(Overloaded, match="Too many"):
        await service.ask(asking("second"))


async def test_the_deadline_holds_while_pixels_are_prepared_again() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.engine.knows[0].clear()
    prepare = service.preprocess.prepare

    def slow(request: ChatRequest, unsent: bool, again: bool) -> Any:
        return asyncio.Event().wait if again else prepare(request, unsent, again)

    service.handle.methods["prepare"] = slow
    with pytest.raises(DeadlineExceeded):
        await service.ask(asking("second", deadline_s=0.05))
    assert service.handle.calls[-1][2].cancelled


async def test_closing_the_answer_while_pixels_are_prepared_again_cancels_that_call() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.engine.knows[0].clear()
    prepare = service.preprocess.prepare
    asked = asyncio.Event()

    async def never() -> None:
        asked.set()
        await asyncio.Event().wait()

    service.handle.methods["prepare"] = lambda request, unsent, again: (
        never if again else prepare(request, unsent, again)
    )
    task = asyncio.create_task(service.ask(asking("second")))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.handle.calls[-1][2].cancelled


async def test_an_engine_that_asks_for_pixels_that_it_has_fails_the_request() -> None:
    async def insists(prompt: Prompt) -> AsyncGenerator[PixelsNeeded, None]:
        yield PixelsNeeded(("d",))

    service = Service()
    service.engine_handle.methods["generate"] = insists
    with pytest.raises(EngineFailed, match="asked for pixels"):
        await service.ask(asking("first"))


async def test_the_choices_of_a_request_share_the_prompt_with_pixels_too() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.engine.knows[0].clear()
    service.engine.hold = asyncio.Event()
    choices = [asking(f"choice{n}", group="g", sampling=Sampling(seed=n)) for n in range(3)]
    tasks = [asyncio.create_task(service.ask(choice)) for choice in choices]
    for _ in range(20):
        await asyncio.sleep(0)
    service.engine.hold.set()
    for n, task in enumerate(tasks):
        assert text(await task).startswith(f"choice{n}")
    assert [call[1:] for call in service.preprocess.calls] == [(True, False), (True, False), (False, True)]
    assert not service.pipeline._shared


async def test_a_cached_answer_of_a_follow_up_is_the_same_and_its_generation_may_need_pixels() -> None:
    cache = AnswerCache(CacheSettings(), "model", SilentMeter())
    service = Service(cache=cache)
    greedy = Sampling(max_tokens=4, temperature=0.0)
    await service.ask(asking("first", sampling=greedy))
    service.engine.knows[0].clear()
    expected = text(await service.ask(asking("second", sampling=greedy)))
    calls = len(service.engine.prompts)
    assert text(await service.ask(asking("second", sampling=greedy))) == expected
    assert len(service.engine.prompts) == calls
    assert service.engine.sent == [[True], [False], [True]]


async def test_memories_of_what_was_sent_are_bounded() -> None:
    seen = SeenPictures(most=2)
    requests = [await with_digests(asking(str(n), LARGE + str(n))) for n in range(3)]
    for request in requests:
        seen.add_uploads(request)
    assert [seen.by_reference(request) for request in requests] == [True, False, False]
    assert all(seen.by_reference(request, again=True) for request in requests)
    prompts = [
        Prompt("r", np.arange(3), (Picture(np.zeros((2, 2, 3), np.uint8), str(n), 1, (2, 2)),), Sampling(), 1.0)
        for n in range(3)
    ]
    for prompt in prompts:
        seen.add_sent(prompt)
    light = [seen.without_sent_pixels(prompt) for prompt in prompts]
    assert [prompt.has_all_pixels for prompt in light] == [True, False, False]
    assert all(prompt.has_all_pixels for prompt in prompts)
    other = replace(prompts[2], tenant="another")
    assert seen.without_sent_pixels(other) is other


async def test_known_uploads_that_are_large_still_go_by_reference() -> None:
    seen = SeenPictures()
    request = await with_digests(asking("r", LARGE * 12))
    seen.add_uploads(request)
    assert seen.by_reference(request)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_request_is_answered_about_its_own_pictures(data: st.DataObject) -> None:
    """Whatever replicas forget, whichever die once: each answer names its own pictures and comes once."""

    async def all_of_them() -> None:
        service = Service(replicas=data.draw(st.integers(1, 3)))
        uploads = [LARGE + str(n) for n in range(3)] + ["https://a.b/c.jpg", b"small"]

        async def ask(name: str, chosen: list[Any], tenant: str) -> None:
            events: list[Event] = await service.ask(asking(name, *chosen, tenant=tenant))
            assert text(events) == f"{name} about {[str(upload[-20:]) for upload in chosen]}"

        for number in range(data.draw(st.integers(1, 8))):
            for known in service.engine.knows:
                if data.draw(st.booleans()):
                    known.clear()
            if data.draw(st.booleans()):
                service.preprocess.known.clear()
            service.engine.dies = [len(service.engine.prompts)] if data.draw(st.booleans()) else []
            chosen = data.draw(st.lists(st.sampled_from(uploads), min_size=1, max_size=3))
            tenants = data.draw(st.lists(st.sampled_from("tu"), min_size=1, max_size=2))
            await asyncio.gather(*(ask(f"q{number}.{n}", chosen, tenant) for n, tenant in enumerate(tenants)))

    asyncio.run(all_of_them())
