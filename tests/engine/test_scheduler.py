"""The scheduler decides alone: slots, chunks within the budget, order."""

import pytest

from serve_app.caller import Lane
from serve_app.contracts import Sampling
from serve_app.engine.scheduler import MOST_DRAFTED, Chunk, Scheduler
from serve_app.engine.sequence import Sequence
from serve_app.errors import Overloaded
from tests.engine.conftest import new_sequence


def sequence(name: str, tokens: int = 10, lane: Lane = "interactive") -> Sequence:
    return new_sequence(name, Sampling(max_tokens=5), ids=(0,) * tokens, lane=lane)


def names(sequences: list[Sequence]) -> list[str]:
    return [one.id for one in sequences]


def test_slots_go_to_those_who_waited_longest_and_low_rows_first() -> None:
    scheduler = Scheduler(slots=2, prefill_tokens=100, max_waiting=9)
    for name in "abc":
        scheduler.add(sequence(name))
    admitted = scheduler.admit()
    assert [(one.id, one.slot) for one in admitted] == [("a", 0), ("b", 1)]
    assert names(list(scheduler.waiting)) == ["c"]


def test_a_retired_slot_is_free_at_once_and_the_lowest_is_taken_next() -> None:
    scheduler = Scheduler(slots=3, prefill_tokens=100, max_waiting=9)
    for name in "abc":
        scheduler.add(sequence(name))
    a, b, _ = scheduler.admit()
    scheduler.retire(b)
    scheduler.retire(a)
    scheduler.add(sequence("d"))
    assert [(one.id, one.slot) for one in scheduler.admit()] == [("d", 0)]


def test_the_prefill_budget_goes_to_the_oldest_and_the_shortest_prompts() -> None:
    scheduler = Scheduler(slots=4, prefill_tokens=25, max_waiting=9)
    for name, tokens in (("a", 10), ("b", 30), ("c", 5)):
        scheduler.add(sequence(name, tokens))
    scheduler.admit()
    chunks = [(chunk.sequence.id, chunk.start, chunk.stop, chunk.completes) for chunk in scheduler.chunks()]
    assert chunks == [("c", 0, 5, True), ("a", 0, 10, True), ("b", 0, 10, False)]


def test_a_short_prompt_does_not_wait_for_four_long_ones() -> None:
    scheduler = Scheduler(slots=8, prefill_tokens=1024, max_waiting=9)
    for name in "abcd":
        scheduler.add(sequence(name, 8191))
    scheduler.admit()
    for _ in range(3):
        for chunk in scheduler.chunks():
            chunk.sequence.prefilled = chunk.stop
    scheduler.add(sequence("bystander", 300))
    scheduler.admit()
    first = scheduler.chunks()[0]
    assert (first.sequence.id, first.completes) == ("bystander", True)


def test_only_sequences_with_a_first_token_decode_and_by_slot() -> None:
    scheduler = Scheduler(slots=4, prefill_tokens=100, max_waiting=9)
    for name in "abc":
        scheduler.add(sequence(name))
    a, b, c = scheduler.admit()
    for one in (c, a):
        one.prefilled = 10
        one.generated.append(1)
    assert names(scheduler.decoding()) == ["a", "c"]
    assert b.in_prefill


def test_a_full_queue_refuses_and_names_the_numbers() -> None:
    scheduler = Scheduler(slots=1, prefill_tokens=100, max_waiting=1)
    scheduler.add(sequence("a"))
    scheduler.admit()
    scheduler.add(sequence("b"))
    with pytest.raises(Overloaded, match=r"1 slots are taken and 1 requests are waiting"):
        scheduler.add(sequence("c"))


def test_the_cache_counts_every_token_but_the_newest() -> None:
    one = sequence("a", tokens=10)
    one.prefilled = 10
    assert one.cached == 10
    one.generated.extend([1, 2, 3])
    assert one.cached == 12


def test_drafts_of_a_step_are_limited_and_the_last_one_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sequence, "draft", lambda self: (0,) * 17)
    scheduler = Scheduler(slots=9, prefill_tokens=100, max_waiting=9)
    drafts = scheduler.drafts([sequence(str(index)) for index in range(9)])
    assert [len(draft.drafted) - 1 for draft in drafts] == [16] * (MOST_DRAFTED // 16)


def test_a_draft_has_its_own_tokens_and_the_positions_after_the_prompt() -> None:
    one = sequence("a", tokens=10)
    one.position_delta = 5
    draft = Chunk(one, 12, 15, (3, 1, 4))
    assert draft.token_ids.tolist() == [3, 1, 4]
    assert draft.positions.tolist() == [[17, 18, 19]] * 3
    assert (draft.logits, draft.completes) == (3, False)
    assert [Chunk(one, 0, stop).logits for stop in (9, 10)] == [0, 1]
