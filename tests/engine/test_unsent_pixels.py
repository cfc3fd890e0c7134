"""Prompts without pixels: answered from features, pages or another prompt's pixels, or the pixels are asked for."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from serve_app import metrics
from serve_app.contracts import Finished, Picture, Started, UnsentPixels
from serve_app.engine.sequence import Sequence
from serve_app.errors import EngineFailed, Overloaded
from serve_app.metrics import SilentMeter
from serve_app.replies import PixelsNeeded
from tests.engine.conftest import Bench, CountingModel, picture


def pictures(number: int, side: int = 28) -> tuple[Picture, ...]:
    return tuple(picture(np.random.default_rng(seed), side, side) for seed in range(number))


def unsent(*shown: Picture) -> tuple[Picture, ...]:
    return tuple(replace(each, pixels=UnsentPixels(each.pixels.shape)) for each in shown)


def kinds(b: Bench, name: str) -> list[type]:
    return [type(event) for event in b.events[name]]


@pytest.fixture(params=[False, True], ids=["in parts", "ahead"])
def ahead(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_known_picture_is_answered_without_its_pixels(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), cache=2**20)
    shown = pictures(2)
    b.ask("first", pictures=shown)
    b.run()
    b.ask("second", pictures=unsent(*shown))
    b.run()
    assert (b.text("second"), kinds(b, "second")) == (b.text("first"), kinds(b, "first"))
    assert len(b.model.encoded) == 2
    started = b.events["second"][0]
    assert isinstance(started, Started)
    assert [each.seen_size for each in started.pictures] == [(28, 28)] * 2


def test_an_unknown_picture_is_asked_for_before_any_other_event_and_its_slot_is_free(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), cache=2**20)
    known, unknown, other = pictures(3)
    b.ask("first", pictures=(known,))
    b.run()
    b.ask("second", pictures=unsent(known, unknown, other))
    b.run()
    assert b.events["second"] == [PixelsNeeded((unknown.digest, other.digest))]
    assert b.loop.slots_used() == 0
    b.ask("second", pictures=(known, unknown, other))  # the pipeline sends it again, with the same id
    b.run()
    assert kinds(b, "second")[0] is Started
    assert isinstance(b.terminals("second")[0], Finished)


def test_pixels_that_are_surely_missing_are_asked_for_without_a_wait_for_the_next_step(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), cache=2**20)
    (one,) = pictures(1)
    b.ask("first", pictures=unsent(one))
    assert b.events["first"] == [PixelsNeeded((one.digest,))]
    assert not b.loop.step()


def test_features_that_were_evicted_are_asked_for(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), cache=16)  # the features of one picture
    first, second = pictures(2)
    for name, one in (("first", first), ("second", second)):
        b.ask(name, pictures=(one,))
        b.run()
    b.ask("again", pictures=unsent(first))
    b.ask("known", pictures=unsent(second))
    b.run()
    assert b.events["again"] == [PixelsNeeded((first.digest,))]
    assert isinstance(b.terminals("known")[0], Finished)


def test_features_that_are_evicted_before_admission_are_asked_for(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), cache=2**20)
    shown = pictures(1)
    b.ask("first", pictures=shown)
    b.run()
    b.ask("second", pictures=unsent(*shown))
    b.loop._features.clear()
    b.run()
    assert b.events["second"] == [PixelsNeeded((shown[0].digest,))]
    assert b.loop.slots_used() == 0


def test_features_that_are_evicted_after_admission_are_kept_for_the_prompt(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), cache=2**20)
    shown = pictures(1)
    b.ask("first", pictures=shown)
    b.run()
    b.ask("second", pictures=unsent(*shown))
    start = b.loop._start

    def start_then_evict(sequence: Sequence) -> None:
        start(sequence)
        b.loop._features.clear()

    b.loop._start = start_then_evict  # type: ignore[method-assign]
    b.run()
    assert b.text("second") == b.text("first")


def test_a_prompt_that_waits_for_a_slot_is_asked_for_its_pixels_at_once(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), slots=1, cache=2**20)
    shown = pictures(1)
    b.ask("first", pictures=shown)
    b.run()
    b.ask("streams", max_tokens=30)
    b.loop.step()
    b.ask("second", pictures=unsent(*shown))
    b.loop.step()
    assert b.events["second"] == [PixelsNeeded((shown[0].digest,))]
    assert b.loop.waiting() == 0
    b.ask("second", pictures=shown)
    b.run()
    assert isinstance(b.terminals("second")[0], Finished)


def test_a_full_queue_refuses_a_prompt_without_pixels_as_any_other(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), slots=1, max_waiting=0, cache=2**20)
    b.ask("first", pictures=pictures(1))
    b.run()
    b.ask("streams", max_tokens=30)
    b.loop.step()
    b.ask("second", pictures=unsent(*pictures(1)))
    b.loop.step()
    assert kinds(b, "second") == [Overloaded]


@pytest.mark.parametrize("cache", [0, 2**20])
def test_pixels_of_another_prompt_in_the_engine_are_used(ahead: bool, cache: int) -> None:
    b = Bench(CountingModel(ahead), cache=cache)
    shown = pictures(2)
    b.ask("first", pictures=shown)
    b.ask("second", pictures=unsent(*shown))
    b.run()
    assert b.text("second") == b.text("first") != ""
    assert kinds(b, "second")[0] is Started


def test_pixels_that_were_taken_outlive_the_prompt_that_brought_them() -> None:
    b = Bench(CountingModel(True), slots=4, prefill_tokens=4, cache=0)
    b.ask("streams", max_tokens=100)
    b.loop.step()
    shown = pictures(8, side=56)
    b.ask("first", pictures=shown)
    b.ask("second", pictures=unsent(*shown))
    b.loop.step()
    b.loop.cancel("first")
    b.run()
    assert isinstance(b.terminals("second")[0], Finished)


def test_a_picture_twice_in_a_prompt_needs_its_pixels_once(ahead: bool) -> None:
    b = Bench(CountingModel(ahead), cache=0)
    (one,) = pictures(1)
    b.ask("both", pictures=(one, *unsent(one)))
    b.run()
    assert isinstance(b.terminals("both")[0], Finished)


def test_pictures_without_pixels_are_counted_by_their_result(ahead: bool) -> None:
    counted: list[tuple[str, float]] = []

    class Counting(SilentMeter):
        def count(self, metric: metrics.Metric, value: float = 1.0, **tags: str) -> None:
            if metric is metrics.PICTURES_WITHOUT_PIXELS:
                counted.append((tags["result"], value))

    b = Bench(CountingModel(ahead), slots=1, cache=2**20)
    b.loop._meter = Counting()
    known, unknown = pictures(2)
    b.ask("first", pictures=(known,))
    b.run()
    b.ask("second", pictures=unsent(known, unknown))  # one is surely missing
    b.ask("third", pictures=unsent(known))
    b.run()
    b.ask("streams", max_tokens=30)
    b.loop.step()
    b.ask("waits", pictures=unsent(known, known))
    b.ask("evicted", pictures=unsent(known))
    b.run()
    second_and_third = [("known", 1.0), ("needed", 1.0), ("known", 1.0)]
    assert counted == [*second_and_third, *[("needed", 1.0)] * 2, ("needed", 1.0)]


class ContentModel(CountingModel):
    """Features are the picture's own pixel values; prefill checks that they are those of the prompt's digests."""

    def __init__(self, ahead: bool) -> None:
        super().__init__(ahead)
        self.values: dict[str, int] = {}

    def encode_slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        features = yield from super().encode_slices(pictures)
        return [
            torch.full_like(one, float(shown.sent_pixels()[0, 0, 0]))
            for one, shown in zip(features, pictures, strict=True)
        ]

    def forward(self, rows: list[Sequence], chunks: list[Any]) -> torch.Tensor:
        for chunk in chunks:
            one = chunk.sequence
            if one.prompt.pictures:
                expected = [float(self.values[p.digest]) for p in one.prompt.pictures for _ in range(p.tokens)]
                assert one.features is not None
                assert one.features[:, 0].tolist() == expected
        return super().forward(rows, chunks)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_features_are_always_those_of_the_prompts_own_digests(data: st.DataObject) -> None:
    """Whatever is sent, evicted, cancelled and broken: no answer reads features of another picture."""
    model = ContentModel(data.draw(st.booleans()))
    b = Bench(model, slots=data.draw(st.integers(1, 4)), prefill_tokens=7, max_waiting=20, cache=48)
    shown = []
    for value in range(5):
        side = 28 * (1 + value % 2)
        pixels = np.full((side, side, 3), value, dtype=np.uint8)
        shown.append(Picture(pixels, f"digest{value}", side * side // 784, (side, side)))
        model.values[f"digest{value}"] = value
    model.broken_pictures = {each.digest for each in data.draw(st.lists(st.sampled_from(shown), max_size=1))}
    ended: dict[str, list[object]] = {}
    cancelled = set()
    for index in range(data.draw(st.integers(1, 12))):
        name = f"r{index}"
        chosen = data.draw(st.lists(st.sampled_from(shown), max_size=4))
        sent = tuple(each if data.draw(st.booleans()) else unsent(each)[0] for each in chosen)
        b.ask(name, b"A" * 5, pictures=sent, max_tokens=data.draw(st.integers(1, 4)))
        if data.draw(st.integers(0, 5)) == 0:
            b.loop.cancel(name)
            cancelled.add(name)
        if data.draw(st.integers(0, 5)) == 0:
            b.loop._features.clear()
        for _ in range(data.draw(st.integers(0, 3))):
            b.loop.step()
    b.run()
    for name, events in b.events.items():
        ended[name] = [e for e in events if isinstance(e, (Finished, PixelsNeeded, EngineFailed, Overloaded))]
        assert len(ended[name]) == 1 or (name in cancelled and not ended[name])
        if ended[name] and isinstance(ended[name][0], PixelsNeeded):
            assert len(events) == 1
    assert b.loop.slots_used() == 0
    assert not b.loop._active
