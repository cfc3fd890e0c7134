"""Two lanes: interactive requests are not delayed by background ones, and none of them starves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.caller import Lane
from serve_app.contracts import Sampling
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.sequence import Sequence
from serve_app.engine.waiting_queue import BATCH_TURN
from serve_app.errors import Overloaded
from tests.engine.conftest import new_sequence


def sequence(name: str, lane: Lane = "interactive") -> Sequence:
    return new_sequence(name, Sampling(max_tokens=5), ids=(0,) * 10, lane=lane)


def names(sequences: list[Sequence]) -> list[str]:
    return [one.id for one in sequences]


def test_interactive_requests_get_slots_before_background_ones_that_came_earlier() -> None:
    scheduler = Scheduler(slots=4, prefill_tokens=100, max_waiting=9)
    for name, lane in (("b1", "batch"), ("b2", "batch"), ("a", "interactive")):
        scheduler.add(sequence(name, lane))  # type: ignore[arg-type]
    assert names(scheduler.admit()) == ["a", "b1", "b2"]


def test_a_quarter_of_the_slots_is_never_taken_by_background_requests() -> None:
    scheduler = Scheduler(slots=8, prefill_tokens=100, max_waiting=20)
    for number in range(9):
        scheduler.add(sequence(f"b{number}", "batch"))
    assert len(scheduler.admit()) == 6
    for name in "xy":
        scheduler.add(sequence(name))
    assert names(scheduler.admit()) == ["x", "y"]


def test_with_one_slot_background_requests_run_while_no_interactive_one_waits() -> None:
    scheduler = Scheduler(slots=1, prefill_tokens=100, max_waiting=9)
    scheduler.add(sequence("b", "batch"))
    (running,) = scheduler.admit()
    scheduler.add(sequence("b2", "batch"))
    scheduler.add(sequence("a"))
    scheduler.retire(running)
    assert names(scheduler.admit()) == ["a"]


def test_background_requests_that_wait_take_no_place_of_interactive_ones() -> None:
    scheduler = Scheduler(slots=2, prefill_tokens=100, max_waiting=4)
    for name in "xy":
        scheduler.add(sequence(name))
    scheduler.admit()
    for number in range(2):
        scheduler.add(sequence(f"b{number}", "batch"))
    with pytest.raises(Overloaded, match=r"batch lane are taken and 2 requests are waiting"):
        scheduler.add(sequence("b2", "batch"))
    for number in range(4):
        scheduler.add(sequence(f"a{number}"))


def test_the_prompt_of_an_interactive_request_is_computed_before_those_of_background_ones() -> None:
    scheduler = Scheduler(slots=4, prefill_tokens=32, max_waiting=9)
    scheduler.add(new_sequence("b", Sampling(max_tokens=5), ids=(0,) * 9, lane="batch"))
    scheduler.admit()
    scheduler.add(new_sequence("a", Sampling(max_tokens=5), ids=(0,) * 31))
    scheduler.admit()
    assert [(chunk.sequence.id, chunk.stop) for chunk in scheduler.chunks()] == [("a", 31), ("b", 1)]


# -- whatever arrives -----------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.lists(st.sampled_from(["interactive", "batch"]), max_size=3), st.integers(0, 2)))


@given(st.integers(2, 12), STEPS)
def test_an_interactive_request_waits_for_interactive_ones_and_for_a_bounded_number_of_turns(
    slots: int, steps: list[tuple[list[Lane], int]]
) -> None:
    """In each step some requests arrive and some of the oldest answers end; every admission is checked."""
    scheduler = Scheduler(slots, prefill_tokens=100, max_waiting=1000)
    waiting: list[Sequence] = []
    number = ahead = 0
    for lanes, ends in steps:
        for lane in lanes:
            waiting.append(sequence(f"{number}", lane))
            scheduler.add(waiting[-1])
            number += 1
        for running in scheduler.running[:ends]:
            scheduler.retire(running)
        for admitted in scheduler.admit():
            others = [one for one in waiting if one.prompt.lane != admitted.prompt.lane]
            same = [one for one in waiting if one.prompt.lane == admitted.prompt.lane]
            assert same[0] is admitted  # first come, first served in its lane
            waiting.remove(admitted)
            if admitted.prompt.lane == "batch":
                assert not others or ahead >= BATCH_TURN
                ahead = 0
            else:
                ahead = ahead + 1 if others else ahead
        background = [one for one in scheduler.running if one.prompt.lane == "batch"]
        assert len(background) <= slots - -(-slots // 4) or slots == 1
        free = slots - len(scheduler.running)
        assert not free or all(one.prompt.lane == "batch" for one in waiting)


@given(st.integers(1, 12), st.integers(1, 5))
def test_no_background_request_starves_while_interactive_ones_keep_coming(slots: int, background: int) -> None:
    scheduler = Scheduler(slots, prefill_tokens=100, max_waiting=1000)
    for number in range(background):
        scheduler.add(sequence(f"b{number}", "batch"))
    answered: set[str] = set()
    for number in range((BATCH_TURN + 2) * background + 2 * slots):
        scheduler.add(sequence(f"a{number}"))
        scheduler.add(sequence(f"c{number}"))  # more than can be answered
        if not scheduler.waiting.first(batch=True):
            break
        scheduler.admit()
        ended = scheduler.running[0]
        answered.add(ended.id)
        scheduler.retire(ended)
    assert {f"b{number}" for number in range(background)} <= answered | {one.id for one in scheduler.running}


def test_a_background_request_that_is_cancelled_passes_on_no_turn() -> None:
    scheduler = Scheduler(slots=1, prefill_tokens=100, max_waiting=99)
    cancelled = sequence("b0", "batch")
    scheduler.add(cancelled)
    for number in range(BATCH_TURN):
        scheduler.add(sequence(f"a{number}"))
        (running,) = scheduler.admit()
        scheduler.retire(running)
    scheduler.retire(cancelled)
    scheduler.add(sequence("b1", "batch"))
    scheduler.add(sequence("last"))
    assert names(scheduler.admit()) == ["last"]
