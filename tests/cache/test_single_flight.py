"""One generation for identical requests: who reads what, who stops it, and what an error does."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from serve_app.cache.single_flight import Flight
from serve_app.contracts import ChatRequest, Event
from serve_app.errors import EngineFailed, Overloaded
from tests.fakes import FakeAnswer

REQUEST = ChatRequest("one", ())


class Kept:
    """What a flight reports: the complete answers, and how often it ended."""

    def __init__(self) -> None:
        self.answers: list[list[Event]] = []
        self.ended = 0

    async def completed(self, events: list[Event]) -> None:
        self.answers.append(list(events))

    def end(self) -> None:
        self.ended += 1


def flight_of(answer: FakeAnswer, kept: Kept) -> Flight:
    return Flight(answer(REQUEST), kept.completed, kept.end)


async def read(flight: Flight) -> list[Event]:
    async with aclosing(flight.read()) as events:
        return [event async for event in events]


async def test_all_readers_get_all_events_whenever_they_come():
    answer, kept = FakeAnswer("Two ", "cats", hold_after=2), Kept()
    flight = flight_of(answer, kept)
    first = asyncio.create_task(read(flight))
    await answer.held.wait()
    second = asyncio.create_task(read(flight))
    await asyncio.sleep(0)
    answer.release.set()
    assert await first == await second == await read(flight) == kept.answers[0]
    assert len(await first) == 4
    assert kept.ended == 1


async def test_the_generation_goes_on_when_its_first_reader_leaves():
    answer, kept = FakeAnswer("Two ", "cats", hold_after=2), Kept()
    flight = flight_of(answer, kept)
    first = asyncio.create_task(read(flight))
    await answer.held.wait()
    second = asyncio.create_task(read(flight))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    answer.release.set()
    assert len(await second) == 4
    assert answer.closed_early == 0


async def test_the_generation_stops_when_its_last_reader_leaves():
    answer, kept = FakeAnswer("Two ", "cats", hold_after=2), Kept()
    flight = flight_of(answer, kept)
    readers = [asyncio.create_task(read(flight)) for _ in range(3)]
    await answer.held.wait()
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    assert (answer.closed_early, answer.running, kept.answers) == (1, 0, [])
    assert kept.ended >= 1


async def test_an_error_reaches_every_reader_after_the_events_before_it():
    answer, kept = FakeAnswer("Two", error=Overloaded("Full."), fail_after=2, hold_after=1), Kept()
    flight = flight_of(answer, kept)
    readers = [asyncio.create_task(read(flight)) for _ in range(3)]
    await answer.held.wait()
    answer.release.set()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, Overloaded) for result in results)
    assert kept.answers == []


async def test_a_generation_without_its_last_event_is_an_error_and_not_kept():
    kept = Kept()
    with pytest.raises(EngineFailed, match="without its final event"):
        await read(flight_of(FakeAnswer("Two", break_off=True), kept))
    assert kept.answers == []


async def test_a_replica_that_is_stopped_is_an_error_for_the_readers():
    flight = flight_of(FakeAnswer("Two", error=asyncio.CancelledError(), fail_after=1), Kept())
    with pytest.raises(EngineFailed, match="stopped"):
        await read(flight)
