"""The loop: joining, chunks, ends, failures, cancels; over a model that only counts."""

import threading
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from serve_app.contracts import Delta, Finished, Started, Usage
from serve_app.errors import ContextTooLong, DeadlineExceeded, EngineFailed, Overloaded
from tests.engine.conftest import Bench, CountingModel, picture

Benches = Callable[..., Bench]


def test_an_answer_starts_streams_and_finishes_once(bench_in_parts: Benches) -> None:
    b = bench_in_parts()
    b.ask("a", b"A", max_tokens=3)
    b.run(seconds_a_step=1.0)
    started, *deltas, finished = b.events["a"]
    assert isinstance(started, Started)
    assert [delta.text for delta in deltas if isinstance(delta, Delta)] == ["B", "CD"]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage) == ("length", Usage(1, 3, 0))
    assert finished.vram_bytes == 1000 * (1 + 3) + 1  # CountingModel: all reserved tokens, and the largest piece


def pieces(b: Bench, name: str) -> list[tuple[str, int]]:
    return [(event.text, event.tokens) for event in b.events[name] if isinstance(event, Delta)]


def test_a_streams_first_piece_goes_at_once_and_the_next_ones_an_interval_apart(bench_in_parts: Benches) -> None:
    b = bench_in_parts()
    b.ask("a", b"A", max_tokens=6)
    b.run(seconds_a_step=0.02)  # the interval is 0.05
    assert pieces(b, "a") == [("B", 1), ("CDEF", 4), ("G", 1)]


def test_a_whole_answer_comes_as_its_first_piece_and_the_rest(bench: Benches) -> None:
    b = bench()
    b.ask("a", b"A", max_tokens=6, prompt={"stream": False})
    b.run(seconds_a_step=1.0)
    assert pieces(b, "a") == [("B", 1), ("CDEFG", 5)]


def test_an_end_token_stops_the_answer_and_is_counted_but_not_shown(bench: Benches) -> None:
    b = bench()
    b.ask("a", bytes([253]))
    b.run()
    (finished,) = b.terminals("a")
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage.completion_tokens) == ("stop", 3)


def test_background_requests_delay_an_interactive_one_by_a_step_at_most(bench: Benches) -> None:
    alone, busy = bench(slots=4, prefill_tokens=64), bench(slots=4, prefill_tokens=64)
    for number in range(9):
        busy.ask(f"b{number}", b"A" * 300, max_tokens=20, prompt={"lane": "batch"})
    for _ in range(3):
        busy.loop.step()
    steps = []
    for b in (alone, busy):
        b.ask("a", b"A" * 150, max_tokens=5)
        steps.append(0)
        while not b.terminals("a"):
            b.loop.step()
            steps[-1] += 1
    assert steps[1] <= steps[0] + 1
    busy.run()
    assert all(busy.terminals(f"b{number}") for number in range(9))


def test_a_late_request_joins_the_running_batch(bench_in_parts: Benches) -> None:
    b = bench_in_parts()
    b.ask("a")
    b.loop.step()
    b.ask("b")
    b.loop.step()
    b.loop.step()
    assert b.model.batches == [["a"], ["a", "b"], ["a", "b"]]


def test_more_requests_than_slots_wait_and_are_served_in_order(bench: Benches) -> None:
    b = bench(slots=2)
    for name in "abcd":
        b.ask(name, max_tokens=2)
    b.run()
    assert [chunk[0] for chunk in b.model.chunks] == ["a", "b", "c", "d"]
    assert all(len(batch) <= 2 for batch in b.model.batches)


def test_a_request_beyond_the_queue_is_sent_that_the_service_is_overloaded(bench: Benches) -> None:
    b = bench(slots=1, max_waiting=1)
    for name in "abc":
        b.ask(name)
    b.run()
    (refused,) = b.terminals("c")
    assert isinstance(refused, Overloaded)
    assert [type(b.terminals(name)[0]) for name in "ab"] == [Finished, Finished]


def test_a_long_prompt_is_taken_in_by_chunks_while_others_go_on(bench: Benches) -> None:
    b = bench(prefill_tokens=16)
    b.ask("short", max_tokens=50)
    b.loop.step()
    b.ask("long", b"x" * 40)
    for _ in range(10):
        b.loop.step()
    small = [(start, start + 4) for start in range(0, 24, 4)]  # while more than a budget is left
    pieces = [(0, 15), (15, 30), (30, 40)] if b.model.mixes_prefill_and_decode else [*small, (24, 40)]
    # Where rows and chunks share a forward, a row is part of the budget.
    assert [chunk[1:] for chunk in b.model.chunks if chunk[0] == "long"] == pieces
    assert all("short" in batch for batch in b.model.batches)


def test_a_stop_string_across_tokens_ends_the_answer_before_it(bench: Benches) -> None:
    b = bench()
    b.ask("a", b"A", stop=("DEF",), max_tokens=50)
    b.run()
    assert b.text("a") == "BC"
    (finished,) = b.terminals("a")
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.stop) == ("stop", "DEF")


def test_a_cancelled_request_frees_its_slot_in_the_next_step(bench_in_parts: Benches) -> None:
    b = bench_in_parts(slots=1)
    b.ask("a", max_tokens=100)
    b.loop.step()
    b.loop.cancel("a")
    b.ask("b", max_tokens=2)
    b.loop.step()
    assert b.model.batches[-1] == ["b"]
    b.run()
    assert b.loop.slots_used() == 0


def test_a_waiting_request_can_be_cancelled(bench: Benches) -> None:
    b = bench(slots=1)
    b.ask("a", max_tokens=2)
    b.ask("b", max_tokens=2)
    b.loop.cancel("b")
    b.run()
    assert [chunk[0] for chunk in b.model.chunks] == ["a"]


def test_cancelling_an_unknown_request_changes_nothing(bench: Benches) -> None:
    b = bench()
    b.loop.cancel("nobody")
    b.ask("a", max_tokens=2)
    b.run()
    assert b.text("a") == "BC"


def test_a_broken_prompt_fails_alone(bench: Benches) -> None:
    b = bench()
    b.model.broken = {"bad"}
    b.ask("bad")
    b.ask("good", max_tokens=2)
    b.run()
    (error,) = b.terminals("bad")
    assert isinstance(error, EngineFailed)
    assert b.text("good") == "BC"


def test_a_row_of_values_that_are_not_numbers_fails_alone(bench: Benches) -> None:
    b = bench()
    b.model.not_numbers = {"bad"}
    b.ask("bad")
    b.ask("good", max_tokens=3)
    b.run()
    (error,) = b.terminals("bad")
    assert isinstance(error, EngineFailed)
    assert b.text("good") == "BCD"


def test_memory_that_runs_out_once_costs_nobody_an_answer(bench: Benches) -> None:
    b = bench()
    b.ask("a", max_tokens=3)
    b.loop.step()
    b.model.out_of_memory_steps = 1
    b.run()
    assert b.text("a") == "BCD"


def test_a_picture_that_does_not_fit_in_memory_fails_alone(bench: Benches) -> None:
    import torch

    b = bench()
    b.model.refuse_encoding = torch.OutOfMemoryError("no memory")
    b.ask("big", pictures=(picture(np.random.default_rng(0), 28, 28),))
    b.ask("text", max_tokens=2)
    b.run()
    (error,) = b.terminals("big")
    assert isinstance(error, EngineFailed)
    assert "memory" in error.message
    assert b.text("text") == "BC"


def test_a_request_past_its_deadline_is_sent_so_and_leaves(bench: Benches) -> None:
    b = bench()
    b.ask("a", max_tokens=100)
    b.loop.step()
    b.now = 61.0
    b.loop.step()
    (error,) = b.terminals("a")
    assert isinstance(error, DeadlineExceeded)
    assert b.loop.slots_used() == 0


def test_a_prompt_and_answer_that_exceed_a_slot_are_refused_at_once(bench: Benches) -> None:
    with pytest.raises(ContextTooLong, match="512"):
        bench().ask("a", b"x" * 500, max_tokens=13)


def test_the_same_picture_is_encoded_once_while_the_cache_holds_it(bench: Benches) -> None:
    b = bench(cache=2**20)
    same = picture(np.random.default_rng(1), 28, 56)
    for name in "ab":
        b.ask(name, pictures=(same,), max_tokens=2)
        b.run()
    assert b.model.encoded == [same.digest]


def test_a_prompt_of_many_pictures_does_not_delay_one_of_one_picture(bench: Benches) -> None:
    """All pictures of all prompts were encoded before anything else: eight prompts of 16 delayed others by 12 s."""
    b = bench()
    many = tuple(picture(np.random.default_rng(seed), 28 * 20, 28 * 20) for seed in range(8))
    one = picture(np.random.default_rng(9), 28, 28)
    b.ask("many", pictures=many, max_tokens=2)
    b.loop.step()
    b.ask("one", pictures=(one,), max_tokens=2)
    for _ in range(40):
        b.loop.step()
    assert set(b.model.encoded) == {one.digest, *(each.digest for each in many)}
    assert b.model.encoded.index(one.digest) <= 2
    assert b.text("one") == b.text("many")


def test_a_prompt_of_many_pictures_is_not_starved_by_others(bench: Benches) -> None:
    b = bench(slots=3)
    many = tuple(picture(np.random.default_rng(seed), 28 * 20, 28 * 20) for seed in range(8))
    b.ask("many", pictures=many, max_tokens=2)
    for number in range(60):
        b.ask(f"small {number}", pictures=(picture(np.random.default_rng(100 + number), 28, 28),), max_tokens=2)
        b.loop.step()
    assert {each.digest for each in many} <= set(b.model.encoded)


def test_a_loop_that_dies_tells_everyone_and_says_that_it_is_dead(bench: Benches) -> None:
    b = bench()
    b.ask("a", max_tokens=100)
    b.loop.step()

    b.scheduler.chunks = None  # type: ignore[method-assign, assignment]
    b.loop.run()
    (error,) = b.terminals("a")
    assert isinstance(error, EngineFailed)
    assert isinstance(b.loop.failure, TypeError)
    with pytest.raises(EngineFailed, match="has stopped"):
        b.ask("b")


def test_stopping_ends_the_thread_and_tells_who_is_left(bench: Benches) -> None:
    b = bench()
    thread = threading.Thread(target=b.loop.run)
    thread.start()
    b.ask("a", b"\x00", max_tokens=400)
    b.loop.stop()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert len(b.terminals("a")) == 1
    assert b.loop.failure is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_every_request_ends_once_and_no_slot_is_lost(data: st.DataObject) -> None:
    b = Bench(CountingModel(data.draw(st.booleans())), slots=3, prefill_tokens=7, max_waiting=5, cache=64)
    names = [f"r{index}" for index in range(data.draw(st.integers(1, 12)))]
    cancelled = set()
    b.model.broken = set(data.draw(st.lists(st.sampled_from(names), max_size=2)))
    b.model.not_numbers = set(data.draw(st.lists(st.sampled_from(names), max_size=2)))
    for name in names:
        lane = data.draw(st.sampled_from(["interactive", "batch"]))
        tokens, limit = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 9))
        b.ask(name, b"A" * tokens, max_tokens=limit, prompt={"lane": lane})
        for _ in range(data.draw(st.integers(0, 3))):
            b.loop.step()
        if data.draw(st.booleans()):
            victim = data.draw(st.sampled_from(names))
            b.loop.cancel(victim)
            cancelled.add(victim)
    b.run()
    assert b.loop.slots_used() == 0
    assert len(b.scheduler._free) == 3
    for name in names:
        assert len(b.terminals(name)) <= 1
        if name not in cancelled:
            assert len(b.terminals(name)) == 1


def test_a_step_begins_before_the_last_ones_token_is_read() -> None:
    b = Bench(CountingModel(mixes_prefill_and_decode=True))
    b.ask("a", max_tokens=3)
    b.loop.step()
    b.loop.step()  # begins the second token, reads the first
    assert (b.model.batches, b.text("a")) == ([["a"]], "B")
    b.loop.step()
    assert (b.model.batches, b.text("a")) == ([["a"], ["a"]], "B")
    b.run()
    assert b.text("a") == "BCD"
    assert len(b.model.batches) == 2  # nothing is computed beyond max_tokens


def test_a_row_that_ended_is_computed_once_more_and_its_slot_serves_the_next_request() -> None:
    b = Bench(CountingModel(mixes_prefill_and_decode=True), slots=1)
    b.ask("a", bytes([253]), max_tokens=50)  # ends with its third token
    b.ask("b", b"A", max_tokens=3)
    b.run()
    assert b.finished("a").usage.completion_tokens == 3
    assert b.text("b") == "BCD"


def test_rows_and_chunks_share_one_forward() -> None:
    b = Bench(CountingModel(mixes_prefill_and_decode=True), prefill_tokens=16)
    b.ask("short", max_tokens=6)
    b.loop.step()
    b.ask("long", b"x" * 40, max_tokens=2)
    b.run()
    assert [chunk[1:] for chunk in b.model.chunks if chunk[0] == "long"] == [(0, 15), (15, 30), (30, 40)]
    assert b.text("short") == "BCDEFG"
    assert b.text("long") == "yz"


def test_a_step_encodes_pictures_of_three_quarters_of_the_tokens_that_it_computes_of_prompts() -> None:
    b = Bench(CountingModel(mixes_prefill_and_decode=True), prefill_tokens=20)
    b.ask("streams", max_tokens=20)
    b.loop.step()
    for name in ("p", "q", "r"):
        b.ask(name, pictures=(picture(np.random.default_rng(ord(name)), 28 * 2, 28 * 4),))  # 8 tokens
    encoded = []
    for _ in range(3):
        b.loop.step()
        encoded.append(len(b.model.encoded))
    assert encoded == [2, 3, 3]
    b.run()
    assert b.text("streams") == "BCDEFGHIJKLMNOPQRSTU"


def test_an_answer_that_can_not_be_parsed_does_not_end_the_others(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    b = bench()
    b.ask("broken")
    b.ask("other")
    b.loop.step()

    def fail(token_id: int, logprob: object = None) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    b.loop._active["broken"].parser.push = fail  # type: ignore[method-assign]
    b.run()
    (error,) = b.terminals("broken")
    assert isinstance(error, EngineFailed)
    assert b.finished("other").reason == "length"
    assert b.loop.slots_used() == 0
    assert "maximum recursion depth exceeded" in caplog.text
