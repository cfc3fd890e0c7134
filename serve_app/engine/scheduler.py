"""Scheduler: slots and pages for waiting sequences, prompt chunks and decoding sequences for a step.

Pure: no torch, no clock, no threads. Slots: first come, first served in each lane (waiting_queue.py). Prefill: short
prompts first, within the bounds of fairness.py. A sequence gets the memory of its longest answer when it is admitted,
so no sequence is preempted; a quarter of the slots is therefore kept free of the batch lane.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.engine.fairness import share_lanes
from serve_app.engine.model.pages import PAGE_TOKENS, PagePool, pages_for
from serve_app.engine.sequence import Sequence
from serve_app.engine.waiting_queue import WaitingQueue
from serve_app.errors import Overloaded

MOST_DRAFTED = 64  # tokens of a step; a step of 64 rows more takes a fifth longer on a GPU


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, stop) of one sequence, computed in one step: of its prompt, or drafted ones of its answer."""

    sequence: Sequence
    start: int
    stop: int
    drafted: tuple[int, ...] = ()  # the tokens of an answer; the first may have been accepted, the others are a guess

    @property
    def completes(self) -> bool:
        """Whether the first token of the answer can be sampled after it."""
        return self.stop == self.sequence.prompt_tokens

    @property
    def logits(self) -> int:
        """The number of its last tokens after which a token is sampled."""
        return len(self.drafted) or int(self.completes)

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """(tokens,)"""
        if self.drafted:
            return np.array(self.drafted, dtype=np.int64)
        return self.sequence.prompt.token_ids[self.start : self.stop].astype(np.int64)

    @property
    def positions(self) -> NDArray[np.int64]:
        """(axes, tokens)"""
        one = self.sequence
        if not self.drafted:
            return one.positions[:, self.start : self.stop]
        at = np.arange(self.start, self.stop, dtype=np.int64) + one.position_delta
        return np.broadcast_to(at, (len(one.positions), len(at)))


class Scheduler:
    """Decides the next step for `slots` rows and `prefill_tokens` prompt tokens a step.

    With a page pool a sequence also needs pages, and begins after the tokens that shared pages hold.
    """

    def __init__(self, slots: int, prefill_tokens: int, max_waiting: int, pool: PagePool | None = None) -> None:
        self.slots = slots
        self.prefill_tokens = prefill_tokens
        self._max_waiting = max_waiting
        self._pool = pool
        self._free = list(range(slots))  # a heap: low rows first keeps the decode batch dense
        self._batch_slots = max(1, slots - -(-slots // 4))  # that the batch lane may take; at least one
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []  # in order of admission

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences, running and waiting (from any thread)."""
        return [*self.running, *self.waiting]

    @property
    def reads_long_prompt(self) -> bool:
        """Whether a running sequence has more unread tokens than one budget."""
        return any(sequence.unread_tokens > self.prefill_tokens for sequence in self.running)

    @property
    def ready_prompts(self) -> list[Sequence]:
        """The running sequences whose prompt can be read: none of its pictures' features are missing."""
        return [sequence for sequence in self.running if sequence.in_prefill and not sequence.needs_features]

    @property
    def by_lane(self) -> list[Sequence]:
        """The running sequences, those of the batch lane last; in order of admission otherwise."""
        return sorted(self.running, key=lambda sequence: sequence.prompt.lane == "batch")

    @property
    def kv_tokens(self) -> int:
        """Tokens that the pages hold; 0 where there are none."""
        return 0 if self._pool is None else self._pool.pages * PAGE_TOKENS

    @property
    def cached_tokens(self) -> int:
        return sum(sequence.cached for sequence in self.running)

    def knows_page(self, keys: list[bytes]) -> bool:
        """Whether the first page of a prompt with these keys is there (from any thread)."""
        return self._pool is not None and bool(keys) and keys[0] in self._pool

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; raises `Overloaded` if there is neither a free slot nor a place in the queue of its lane.

        The batch lane has half of the places, besides those of the interactive lane, which it never takes.
        """
        lane, places, free = sequence.prompt.lane, self._max_waiting, len(self._free)
        if lane == "batch":
            places, free = places // 2, min(free, self._free_for_batch)
        if self.waiting.number(lane) >= places + free:
            taken = f"All {self.slots} slots" if lane == "interactive" else "All slots for requests of the batch lane"
            raise Overloaded(f"{taken} are taken and {places} requests are waiting. Try again shortly.")
        self.waiting.add(sequence)

    def admit(self) -> list[Sequence]:
        """Assign free slots, and pages, to the sequences that wait longest, the interactive ones first."""
        admitted: list[Sequence] = []
        while self._free:
            sequence = self.waiting.first(batch=self._free_for_batch > 0)
            if sequence is None or not self._reserve(sequence):
                break
            self.waiting.take(sequence)
            sequence.slot = heapq.heappop(self._free)
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def chunks(self, budget: int | None = None) -> list[Chunk]:
        """Prompt chunks of sequences that need no features, within a token budget, `prefill_tokens` by default.

        The fewest tokens left come first, the batch lane last.
        """
        in_prefill = self.ready_prompts
        unread = [sequence.unread_tokens for sequence in in_prefill]
        background = [sequence.prompt.lane == "batch" for sequence in in_prefill]
        shares = share_lanes(unread, background, budget or self.prefill_tokens)
        order = sorted(range(len(in_prefill)), key=lambda place: (background[place], unread[place]))
        return [
            Chunk(in_prefill[place], in_prefill[place].prefilled, in_prefill[place].prefilled + shares[place])
            for place in order
            if shares[place]
        ]

    def decoding(self) -> list[Sequence]:
        """Sequences that decode in this step, by slot."""
        return sorted((s for s in self.running if s.decodes), key=lambda s: s.slot)

    def drafts(self, decoding: list[Sequence]) -> list[Chunk]:
        """Drafted tokens of decoding sequences, at most `MOST_DRAFTED` of them besides one for each sequence."""
        chunks, left = [], MOST_DRAFTED
        for sequence in decoding:
            if inputs := sequence.draft()[: left + 1]:
                left -= len(inputs) - 1
                chunks.append(Chunk(sequence, sequence.cached, sequence.cached + len(inputs), inputs))
            if not left:
                break
        return chunks

    def complete(self, chunk: Chunk) -> None:
        """A prompt chunk's tokens are in the cache, or will be before any later step reads them."""
        sequence = chunk.sequence
        sequence.prefilled = chunk.stop
        if self._pool is not None:
            for index in range(chunk.start // PAGE_TOKENS, chunk.stop // PAGE_TOKENS):
                self._pool.publish(sequence.pages[index], sequence.page_keys[index])

    def forget_pages(self, sequence: Sequence) -> list[int]:
        """Remove the keys of pages that only this sequence uses, so that no prompt reuses them; return them."""
        return [] if self._pool is None else self._pool.forget(sequence.pages)

    def retire(self, sequence: Sequence) -> None:
        """Remove a running or waiting sequence; its slot and pages are free at once."""
        if sequence.slot >= 0:
            self.running.remove(sequence)
            heapq.heappush(self._free, sequence.slot)
            sequence.slot = -1
            if self._pool is not None:
                self._pool.release(sequence.pages)
        else:
            self.waiting.remove(sequence)

    @property
    def _free_for_batch(self) -> int:
        """Slots that the batch lane may still take."""
        return self._batch_slots - sum(sequence.prompt.lane == "batch" for sequence in self.running)

    def _reserve(self, sequence: Sequence) -> bool:
        if self._pool is None:
            return True
        # One prompt token at least is computed, for its logits.
        reusable = sequence.page_keys[: (sequence.prompt_tokens - 1) // PAGE_TOKENS]
        if (reserved := self._pool.reserve(reusable, pages_for(sequence.reserved))) is None:
            return False
        sequence.pages, known = reserved
        sequence.prefilled = known * PAGE_TOKENS
        return True
