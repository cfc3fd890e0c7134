"""Queue of sequences that wait for a slot: two lanes, first come, first served in each.

Interactive sequences go first. So that none of the batch lane starves, it gets a turn after `BATCH_TURN` interactive
ones that went ahead of its oldest sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from serve_app.caller import Lane
from serve_app.engine.sequence import Sequence

BATCH_TURN = 8  # interactive sequences that go ahead of the oldest one of the batch lane


class WaitingQueue:
    """Waiting sequences by lane; pure."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, deque[Sequence]] = {"interactive": deque(), "batch": deque()}
        self._ahead = 0  # interactive sequences that went ahead of the batch lane's oldest

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return iter([*self._lanes["interactive"], *self._lanes["batch"]])  # other threads iterate too: copied at once

    def number(self, lane: Lane) -> int:
        """Sequences that wait in a lane."""
        return len(self._lanes[lane])

    def add(self, sequence: Sequence) -> None:
        self._lanes[sequence.prompt.lane].append(sequence)

    def first(self, batch: bool) -> Sequence | None:
        """The sequence that gets the next slot; one of the batch lane only if `batch`."""
        interactive, background = self._lanes["interactive"], self._lanes["batch"]
        if batch and background and (not interactive or self._ahead >= BATCH_TURN):
            return background[0]
        return interactive[0] if interactive else None

    def take(self, sequence: Sequence) -> None:
        """Remove a sequence that `first` returned, since it gets a slot."""
        self._lanes[sequence.prompt.lane].popleft()
        if sequence.prompt.lane == "batch":
            self._ahead = 0
        elif self._lanes["batch"]:
            self._ahead += 1

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence that waits no longer; raises ValueError if it does not wait."""
        lane = self._lanes[sequence.prompt.lane]
        if sequence.prompt.lane == "batch" and lane and lane[0] is sequence:
            self._ahead = 0
        lane.remove(sequence)
