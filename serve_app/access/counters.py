"""Counters of limits in this process: sliding windows, requests in progress; Redis: shared_counters.py"""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage

NO_LIMIT: Final = 2**53  # for what is recorded in any case
LimitOfKey: TypeAlias = tuple[RateLimitItemPerSecond, str]


@dataclass(frozen=True, slots=True)
class WindowState:
    """What is left of a limit now, and the seconds until all of it is."""

    remaining: int
    reset_s: float


class Hit(NamedTuple):
    """Whether an amount was counted, and what is left then."""

    allowed: bool
    state: WindowState


class Counters(Protocol):
    """Where limits are counted."""

    async def hit(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> Hit:
        """Counts `amount` if the limit allows it."""

    async def record(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> None:
        """Counts `amount`, also above the limit."""

    async def give_back(self, limit: RateLimitItemPerSecond, key: str, amount: int, age_s: float) -> None:
        """Subtracts `amount` from the window in which it was counted `age_s` seconds ago, if that still counts."""

    async def states(self, windows: Sequence[LimitOfKey]) -> list[WindowState]: ...

    async def acquire(self, key: str, limit: int, lease: str, ttl_s: int) -> bool:
        """Takes one of `limit` places until it is released, or for `ttl_s`; False if all are taken."""

    async def release(self, key: str, lease: str) -> None: ...


def window_state(limit: RateLimitItemPerSecond, counted: tuple[int, float, int, float]) -> WindowState:
    """What is left after the counts of the previous and the current window, each with its time to live in seconds."""
    previous, previous_ttl_s, current, current_ttl_s = counted
    window_s = limit.get_expiry()
    remaining = max(0, limit.amount - math.floor(previous * previous_ttl_s / window_s + current))
    resets_s = [previous_ttl_s % (window_s / previous)] if previous else []
    resets_s += [current_ttl_s % window_s] if current else []
    return WindowState(remaining, min(resets_s, default=0.0))


class LocalCounters:
    """Counts in this process, in sliding windows of the library `limits`."""

    def __init__(self) -> None:
        self._memory = MemoryStorage()
        self._leases: Counter[str] = Counter()

    async def hit(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> Hit:
        name, window_s = limit.key_for(key), limit.get_expiry()
        allowed = await self._memory.acquire_sliding_window_entry(name, limit.amount, window_s, amount)
        return Hit(allowed, window_state(limit, await self._memory.get_sliding_window(name, window_s)))

    async def record(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> None:
        await self._memory.acquire_sliding_window_entry(limit.key_for(key), NO_LIMIT, limit.get_expiry(), amount)

    async def states(self, windows: Sequence[LimitOfKey]) -> list[WindowState]:
        return [
            window_state(limit, await self._memory.get_sliding_window(limit.key_for(key), limit.get_expiry()))
            for limit, key in windows
        ]

    async def give_back(self, limit: RateLimitItemPerSecond, key: str, amount: int, age_s: float) -> None:
        window_s, now = limit.get_expiry(), time.time()
        previous_key, current_key = self._memory.sliding_window_keys(limit.key_for(key), window_s, now)
        current_age_s = now % window_s
        if age_s > current_age_s + window_s:
            return
        counted = current_key if age_s <= current_age_s else previous_key
        if await self._memory.get(counted):
            await self._memory.decr(counted, amount)  # not below 0

    async def acquire(self, key: str, limit: int, lease: str, ttl_s: int) -> bool:
        if self._leases[key] >= limit:
            return False
        self._leases[key] += 1
        return True

    async def release(self, key: str, lease: str) -> None:
        self._leases[key] -= 1
        if self._leases[key] <= 0:
            del self._leases[key]


def new_lease() -> str:
    return uuid.uuid4().hex
