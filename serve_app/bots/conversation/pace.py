"""Keeps the rate limits of a chat platform: when the next text may be sent to one receiver."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

IDLE_S: Final = 3600.0  # receivers that got nothing for so long are removed


class Pace:
    """Limits as (number, seconds), each in a sliding window, and a shortest interval between two texts."""

    def __init__(
        self,
        limits: Sequence[tuple[int, float]],
        interval_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = tuple(limits)
        self._longest_s = max(seconds for _, seconds in limits)
        self._interval_s = interval_s
        self._clock = clock
        self._sent: dict[str, deque[float]] = {}

    def wait_s(self, receiver: str, *, urgent: bool = False) -> float:
        """Seconds until a text may be sent; an urgent one does not wait for the shortest interval."""
        sent = self._sent.get(receiver)
        if not sent:
            return 0.0
        now = self._clock()
        allowed_at = sent[-1] + (0.0 if urgent else self._interval_s)
        for number, seconds in self._limits:
            if len(sent) >= number:
                allowed_at = max(allowed_at, sent[-number] + seconds)
        return max(0.0, allowed_at - now)

    def is_below(self, receiver: str, share: float) -> bool:
        """Whether less than this share of each limit is used."""
        sent, now = self._sent.get(receiver, ()), self._clock()
        counts = ((max(1, int(number * share)), seconds) for number, seconds in self._limits)
        return all(len(sent) < count or sent[-count] + seconds <= now for count, seconds in counts)

    async def enter(self, receiver: str, *, urgent: bool = False) -> None:
        """Waits until a text may be sent, and counts it."""
        seconds = self.wait_s(receiver, urgent=urgent)
        while seconds > 0:
            await asyncio.sleep(seconds)
            seconds = self.wait_s(receiver, urgent=urgent)
        self.count(receiver)

    def count(self, receiver: str) -> None:
        """Counts a text that is sent now."""
        now = self._clock()
        sent = self._sent.setdefault(receiver, deque())
        sent.append(now)
        while sent[0] <= now - self._longest_s:
            sent.popleft()
        for other in [name for name, times in self._sent.items() if times[-1] < now - IDLE_S]:
            del self._sent[other]
