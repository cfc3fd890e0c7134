"""Where answers are kept: the interface of a store, and the store in this process's memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

_ENTRY_BYTES: Final = 300  # of an entry beside its value: key, objects, dict


class StoreUnavailable(Exception):
    """The store did not respond in time, or is known not to."""


class Store(Protocol):
    """Bytes by key for a limited time. Every method may raise StoreUnavailable."""

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None: ...

    async def close(self) -> None: ...


class MemoryStore:
    """A store in this process, bounded by bytes; the entry that was not used for the longest time is removed first."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()  # key -> end of its time, value
        self.bytes = 0

    async def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        ends_at, value = entry
        if self._clock() >= ends_at:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        self._remove(key)
        self._entries[key] = (self._clock() + ttl_s, value)
        self.bytes += len(value) + _ENTRY_BYTES
        while self.bytes > self._max_bytes and self._entries:
            self._remove(next(iter(self._entries)))

    async def close(self) -> None:
        self._entries.clear()
        self.bytes = 0

    def _remove(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.bytes -= len(entry[1]) + _ENTRY_BYTES
