"""The cache between prepare and generate: hits, misses, joined requests, and a store that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from serve_app.cache import answer_cache
from serve_app.cache.key import request_digest
from serve_app.cache.store import MemoryStore, StoreUnavailable
from serve_app.contracts import ChatRequest, Delta, Event, Finished, ImagePart, Message, Sampling, Started, TextPart
from serve_app.errors import DeadlineExceeded, InvalidRequest, ServiceError
from serve_app.settings_cache import CacheSettings
from tests.cache.conftest import Cached
from tests.fakes import PREPARED_MS, FakeAnswer, FakeAnswers

Question = Callable[..., ChatRequest]


class LateFailure:
    """An `Answer` that fails before its first event, once `release` is set."""

    def __init__(self, error: ServiceError | None = None) -> None:
        self.error = error or DeadlineExceeded("Late.")
        self.held, self.release = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.held.set()
        await self.release.wait()
        raise self.error
        yield


class FailingStore(MemoryStore):
    """A store that is not there."""

    async def get(self, key: str) -> bytes | None:
        raise StoreUnavailable

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        raise StoreUnavailable


class DamagedStore(MemoryStore):
    """A store whose values lose their last byte."""

    async def get(self, key: str) -> bytes | None:
        value = await super().get(key)
        return value and value[:-1]


async def test_a_repeated_question_is_answered_without_the_model(question: Question):
    cached = Cached()
    first, second = await cached.ask(question()), await cached.ask(question(id="two"))
    assert cached.generated == 1
    assert [event for event in second if isinstance(event, Delta)] == [
        event for event in first if isinstance(event, Delta)
    ]
    assert (first[0].cache, second[0].cache) == ("miss", "hit")
    assert (first[-1].usage.cached_tokens, second[-1].usage.cached_tokens) == (0, 40)
    assert cached.lookups() == {"miss": 1, "hit": 1}


async def test_a_request_that_was_seen_is_not_even_prepared(question: Question):
    cached = Cached()
    await cached.ask(question())
    events = await cached.ask(question(id="two"))
    assert cached.prepared == 1
    assert list(events[-1].stages_ms) == ["cache"]


async def test_an_upload_with_the_same_bytes_is_not_decoded_again(question: Question):
    def about(picture: bytes, id: str) -> ChatRequest:
        return replace(question(id=id), messages=(Message("user", (ImagePart(picture), TextPart("?"))),))

    cached = Cached()
    large = bytes(1_000_000)
    await cached.ask(about(large, "one"))
    await cached.ask(about(large, "two"))
    assert (cached.prepared, cached.generated) == (1, 1)
    await cached.ask(about(large[:-1] + b"x", "three"))
    assert (cached.prepared, cached.generated) == (2, 2)


async def test_a_prompt_that_is_the_same_by_another_way_is_a_hit_with_its_own_times(question: Question):
    cached = Cached()
    await cached.ask(question(sampling=Sampling(None, 0.0)))
    events = await cached.ask(question(sampling=Sampling(16, 0.0)))  # the default, given explicitly
    assert (cached.prepared, cached.generated) == (2, 1)
    assert events[-1].stages_ms.keys() == {*PREPARED_MS, "cache"}


async def test_identical_questions_in_progress_are_generated_once(question: Question):
    answer = FakeAnswer("Two ", "cats", hold_after=2)
    cached = Cached(answer=answer)
    tasks = [asyncio.create_task(cached.ask(question(id=str(number)))) for number in range(5)]
    await answer.held.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    answer.release.set()
    answers = await asyncio.gather(*tasks)
    assert cached.generated == 1
    assert [events[0].cache for events in answers] == ["miss", "hit", "hit", "hit", "hit"]
    assert cached.lookups()["joined"] == 4


async def test_the_answer_is_kept_if_the_first_caller_leaves_and_another_one_stays(question: Question):
    answer = FakeAnswer("Two ", "cats", hold_after=2)
    cached = Cached(answer=answer)
    first = asyncio.create_task(cached.ask(question()))
    await answer.held.wait()
    second = asyncio.create_task(cached.ask(question(id="two")))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    answer.release.set()
    assert isinstance((await second)[-1], Finished)
    await cached.ask(question(id="three"))
    assert cached.generated == 1


async def test_nothing_is_kept_of_an_answer_whose_callers_all_left(question: Question):
    answer = FakeAnswer("Two ", "cats", hold_after=2)
    cached = Cached(answer=FakeAnswers(answer, FakeAnswer("Three")))
    async with aclosing(cached.events(question())) as events:
        await anext(events)
    assert answer.closed_early == 1
    events = await cached.ask(question(id="two"))
    assert (cached.generated, events[1].text) == (2, "Three")


async def test_a_request_that_joined_one_that_fails_before_its_text_is_generated_itself(question: Question):
    failing = LateFailure()
    cached = Cached(answer=FakeAnswers(failing, FakeAnswer("Two")))
    first = asyncio.create_task(cached.ask(question()))
    await failing.held.wait()
    second = asyncio.create_task(cached.ask(question(id="two")))
    await asyncio.sleep(0.01)
    failing.release.set()
    with pytest.raises(DeadlineExceeded):
        await first
    assert (await second)[1].text == "Two"


@pytest.mark.parametrize("seen", [False, True])
async def test_requests_that_joined_one_that_fails_are_generated_together_and_once(question: Question, seen: bool):
    """`seen`: the requests were not prepared, as the key of their answer was known."""
    failing = LateFailure()
    before = [FakeAnswer("Old")] * seen
    cached = Cached(answer=FakeAnswers(*before, failing, FakeAnswer("Two")))
    if seen:
        await cached.ask(question())
        await cached.settled()
    first = asyncio.create_task(cached.ask(question(cache="refresh")))
    await failing.held.wait()
    joined = [asyncio.create_task(cached.ask(question(id=str(number)))) for number in range(4)]
    await asyncio.sleep(0.01)
    failing.release.set()
    with pytest.raises(DeadlineExceeded):
        await first
    assert [events[1].text for events in await asyncio.gather(*joined)] == ["Two"] * 4
    assert cached.generated == 2 + seen


async def test_requests_that_joined_one_that_is_invalid_are_not_generated(question: Question):
    failing = LateFailure(InvalidRequest("No."))
    cached = Cached(answer=failing)
    tasks = [asyncio.create_task(cached.ask(question(id=str(number)))) for number in range(3)]
    await failing.held.wait()
    await asyncio.sleep(0.01)
    failing.release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [InvalidRequest] * 3
    assert cached.generated == 1


async def test_refresh_generates_again_and_keeps_the_new_answer(question: Question):
    cached = Cached(answer=FakeAnswers(FakeAnswer("Old"), FakeAnswer("New")))
    await cached.ask(question())
    await cached.ask(question(cache="refresh"))
    assert (await cached.ask(question()))[1].text == "New"
    assert cached.generated == 2


@pytest.mark.parametrize(
    ("fields", "settings", "applies"),
    [
        ({"sampling": Sampling(temperature=0.0)}, "deterministic", True),
        ({"sampling": Sampling(seed=4)}, "deterministic", True),
        ({"sampling": Sampling()}, "deterministic", False),
        ({"sampling": Sampling()}, "all", True),
        ({"sampling": Sampling(), "group": "one"}, "all", False),
        ({"sampling": Sampling(temperature=0.0), "cache": "off"}, "all", False),
    ],
)
def test_which_answers_are_kept(question: Question, fields: dict, settings: str, applies: bool):
    cached = Cached(settings=CacheSettings(answers=settings))
    assert cached.cache.applies_to(question(**fields)) is applies


async def test_an_answer_larger_than_the_limit_is_not_kept(question: Question):
    cached = Cached(settings=CacheSettings(max_answer_kib=1), answer=FakeAnswer("x" * 2000))
    await cached.ask(question())
    await cached.ask(question())
    assert cached.generated == 2


async def test_an_answer_is_not_kept_longer_than_its_time(question: Question):
    now = [0.0]
    cached = Cached(store=MemoryStore(10_000, lambda: now[0]), settings=CacheSettings(ttl_s=10))
    await cached.ask(question())
    now[0] = 11.0
    await cached.ask(question())
    assert cached.generated == 2


async def test_a_store_that_is_down_is_a_miss(question: Question):
    cached = Cached(store=FailingStore(0))
    for number in range(2):
        events = await cached.ask(question(id=str(number)))
        assert [type(event) for event in events] == [Started, Delta, Delta, Finished]
    assert cached.generated == 2
    assert cached.lookups()["unavailable"] >= 2


async def test_a_damaged_answer_is_a_miss(question: Question):
    cached = Cached(store=DamagedStore(10_000))
    await cached.ask(question())
    assert (await cached.ask(question()))[0].cache == "miss"
    assert cached.generated == 2
    assert cached.lookups()["invalid"] == 1


async def test_large_texts_and_answers_are_worked_on_in_a_thread(question: Question, monkeypatch: pytest.MonkeyPatch):
    threads = {}

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            threads[name] = threading.current_thread() is not threading.main_thread()
            return function(*arguments)

        return call

    monkeypatch.setattr(answer_cache, "request_digest", recorded("digest", request_digest))
    for size, in_thread in ((10, False), (3 * 2**20, True)):
        cached = Cached(answer=FakeAnswer("x" * size))
        monkeypatch.setattr(cached.cache._codec, "encode", recorded("encode", cached.cache._codec.encode))
        await cached.ask(question("x" * size))
        await cached.settled()
        assert threads == {"digest": in_thread, "encode": in_thread}
