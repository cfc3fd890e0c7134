"""Scheduler: which waiting sequences get slots, which prompt chunks and which sequences run in a step.

Pure: no torch, no clock, no threads. Slots: first come, first served. Prefill: short prompts first, within
the bound of fairness.py. A slot holds the longest admissible request, so no sequence is preempted.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from serve_app.engine.fairness import share_prefill
from serve_app.engine.sequence import Sequence
from serve_app.errors import Overloaded


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt tokens [start, stop) of one sequence, computed in one step."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def completes(self) -> bool:
        return self.stop == self.sequence.prompt_tokens


class Scheduler:
    """Decides the next step for `slots` rows and `prefill_tokens` prompt tokens a step."""

    def __init__(self, slots: int, prefill_tokens: int, max_waiting: int) -> None:
        self.slots = slots
        self._prefill_tokens = prefill_tokens
        self._max_waiting = max_waiting
        self._free = list(range(slots))  # a heap: low rows first keeps the decode batch dense
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences, running and waiting (from any thread)."""
        return [*self.running, *self.waiting]

    @property
    def cached_tokens(self) -> int:
        return sum(sequence.cached for sequence in self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; raises `Overloaded` if there is neither a free slot nor a place in the queue."""
        if len(self.waiting) >= self._max_waiting + len(self._free):
            raise Overloaded(
                f"All {self.slots} slots are taken and {self._max_waiting} requests are waiting. Try again shortly."
            )
        self.waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Give free slots to the sequences that wait longest."""
        admitted = []
        while self.waiting and self._free:
            sequence = self.waiting.popleft()
            sequence.slot = heapq.heappop(self._free)
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def chunks(self) -> list[Chunk]:
        """Prompt chunks of this step, within the token budget; prompts with the fewest tokens left come first."""
        in_prefill = [sequence for sequence in self.running if sequence.in_prefill]
        shares = share_prefill([sequence.unread_tokens for sequence in in_prefill], self._prefill_tokens)
        return [
            Chunk(sequence, sequence.prefilled, sequence.prefilled + tokens)
            for sequence, tokens in sorted(zip(in_prefill, shares, strict=True), key=lambda pair: pair[0].unread_tokens)
            if tokens
        ]

    def decoding(self) -> list[Sequence]:
        """Sequences that decode one token in this step, by slot."""
        return sorted((s for s in self.running if s.generated), key=lambda s: s.slot)

    def retire(self, sequence: Sequence) -> None:
        """Remove a running or waiting sequence; its slot is free at once."""
        if sequence.slot >= 0:
            self.running.remove(sequence)
            heapq.heappush(self._free, sequence.slot)
            sequence.slot = -1
        else:
            self.waiting.remove(sequence)
