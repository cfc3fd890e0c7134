"""What bots keep for a while, in memory or also in Redis: streams, message ids, pictures."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serve_app.errors import InvalidRequest
from serve_app.settings_bots import BotSettings

PREFIX: Final = "glm:bots:"
UNFINISHED: Final = PREFIX + "unfinished"
REDIS_TIMEOUT_S: Final = 0.5
FILE_TIMEOUT_S: Final = 5.0  # of a picture, which no callback waits for
PAUSE_S: Final = 5.0  # after a failure Redis is not called

_log = logging.getLogger("glm.bots")


class StateUnavailable(Exception):
    """The Redis of the bots does not respond."""


class State(Protocol):
    """Bytes by key for a limited time, and the set of streams that are not finished."""

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None: ...

    async def claim(self, key: str, value: bytes, ttl_s: float) -> bytes:
        """Sets the value if there is none; returns the one that is there now."""

    async def renew(self, key: str, ttl_s: float) -> None:
        """Keeps a value, if it is there, for so long from now."""

    async def delete(self, key: str) -> None: ...

    async def open(self, member: str) -> None:
        """Adds to the set of unfinished streams."""

    async def close(self, member: str) -> None: ...

    async def unfinished(self) -> list[str]:
        """The set of unfinished streams. Raises StateUnavailable."""


class MemoryState:
    """State of this process, bounded by bytes: the oldest entries are removed first."""

    def __init__(self, clock: Callable[[], float], max_bytes: int = 256 * 2**20) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()  # key -> end of its time, value
        self._open: dict[str, None] = {}
        self.bytes = 0

    async def get(self, key: str) -> bytes | None:
        return self._read(key)

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        self._remove(key)
        self._entries[key] = (self._clock() + ttl_s, value)
        self.bytes += len(value)
        self._expire()

    async def claim(self, key: str, value: bytes, ttl_s: float) -> bytes:
        known = self._read(key)
        if known is None:
            await self.set(key, value, ttl_s)
        return value if known is None else known

    async def renew(self, key: str, ttl_s: float) -> None:
        if (value := self._read(key)) is not None:
            self._entries[key] = (max(self._entries[key][0], self._clock() + ttl_s), value)
            self._entries.move_to_end(key)

    async def delete(self, key: str) -> None:
        self._remove(key)

    async def open(self, member: str) -> None:
        self._open[member] = None

    async def close(self, member: str) -> None:
        self._open.pop(member, None)

    async def unfinished(self) -> list[str]:
        return list(self._open)

    def entry(self, key: str) -> tuple[bytes, float] | None:
        """A value and the seconds that it is still kept."""
        value = self._read(key)
        return None if value is None else (value, self._entries[key][0] - self._clock())

    def _read(self, key: str) -> bytes | None:
        ends_at, value = self._entries.get(key, (0.0, b""))
        if self._clock() >= ends_at:
            self._remove(key)
            return None
        return value

    def _expire(self) -> None:
        now = self._clock()
        for key, (ends_at, _) in list(self._entries.items())[:2]:  # two for each one that is added: all go in time
            if ends_at <= now:
                self._remove(key)
        while self.bytes > self._max_bytes and self._entries:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.bytes -= len(entry[1])


class RedisState:
    """State in memory that is also written to Redis, and read from there by a process that starts.

    There is one process of bots, so memory is right where it has a value. If Redis fails, the bots work on in memory,
    and what Redis missed is written when it responds again.
    """

    def __init__(
        self, memory: MemoryState, redis: Redis, clock: Callable[[], float], *, pause_s: float = PAUSE_S
    ) -> None:
        self._memory = memory
        self._redis = redis
        self._clock = clock
        self._pause_s = pause_s
        self._paused_until = 0.0
        self._missed_keys: dict[str, bool] = {}  # and whether the key was deleted
        self._missed_members: set[str] = set()  # of the set of unfinished streams
        self._repairing: asyncio.Task[None] | None = None

    async def get(self, key: str) -> bytes | None:
        known = await self._memory.get(key)
        if known is not None or self._missed_keys.get(key):
            return known
        try:
            value: bytes | None = await self._call(lambda: self._redis.get(PREFIX + key), _timeout_s(key))
        except StateUnavailable:
            return None
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._memory.set(key, value, ttl_s)
        await self._write_key(key, lambda: self._redis.set(PREFIX + key, value, px=_milliseconds(ttl_s)))

    async def claim(self, key: str, value: bytes, ttl_s: float) -> bytes:
        known = await self._memory.claim(key, value, ttl_s)
        if known != value:
            return known
        earlier: bytes | None = await self._write_key(
            key, lambda: self._redis.set(PREFIX + key, value, px=_milliseconds(ttl_s), nx=True, get=True)
        )
        if earlier is None:
            return value
        await self._memory.set(key, earlier, ttl_s)
        return earlier

    async def renew(self, key: str, ttl_s: float) -> None:
        await self._memory.renew(key, ttl_s)
        await self._write_key(key, lambda: self._redis.pexpire(PREFIX + key, _milliseconds(ttl_s)))

    async def delete(self, key: str) -> None:
        await self._memory.delete(key)
        await self._write_key(key, lambda: self._redis.delete(PREFIX + key), deletes=True)

    async def open(self, member: str) -> None:
        await self._memory.open(member)
        await self._write_member(member)

    async def close(self, member: str) -> None:
        await self._memory.close(member)
        await self._write_member(member)

    async def unfinished(self) -> list[str]:
        members: set[bytes] = await self._call(lambda: self._redis.smembers(UNFINISHED))
        known = {each.decode() for each in members} - self._missed_members
        return sorted({*await self._memory.unfinished(), *known})

    async def _write_key(self, key: str, command: Callable[[], Any], *, deletes: bool = False) -> Any:
        """The result; None if Redis does not respond, then the key is written later."""
        try:
            result = await self._call(command, _timeout_s(key))
        except StateUnavailable:
            self._missed_keys[key] = deletes
            self._repair_later()
            return None
        self._missed_keys.pop(key, None)
        return result

    async def _write_member(self, member: str) -> None:
        """Writes to Redis whether a stream is unfinished in memory; later if Redis does not respond."""
        change = self._redis.sadd if member in await self._memory.unfinished() else self._redis.srem
        try:
            await self._call(lambda: change(UNFINISHED, member))
        except StateUnavailable:
            self._missed_members.add(member)
            self._repair_later()
        else:
            self._missed_members.discard(member)

    def _repair_later(self) -> None:
        if self._repairing is None or self._repairing.done():
            self._repairing = asyncio.create_task(self._repair())

    async def _repair(self) -> None:
        """Writes what Redis missed, as it is in memory now."""
        while self._missed_keys or self._missed_members:
            await asyncio.sleep(self._pause_s)
            for key, deleted in list(self._missed_keys.items()):
                if (entry := self._memory.entry(key)) is not None:
                    value, ttl_s = entry
                    await self.set(key, value, ttl_s)
                elif deleted:
                    await self.delete(key)
                else:  # removed in memory too, to make place or by its time
                    self._missed_keys.pop(key, None)
            for member in list(self._missed_members):
                await self._write_member(member)

    async def _call(self, command: Callable[[], Any], timeout_s: float = REDIS_TIMEOUT_S) -> Any:
        """The result. Raises StateUnavailable if Redis does not respond, or did not a moment ago."""
        if self._clock() < self._paused_until:
            raise StateUnavailable
        try:
            async with asyncio.timeout(timeout_s):
                return await command()
        except (RedisError, OSError, TimeoutError) as error:
            self._paused_until = self._clock() + self._pause_s
            _log.warning("The Redis of the bots did not respond (%s); they use their memory.", type(error).__name__)
            raise StateUnavailable from error


def _timeout_s(key: str) -> float:
    return FILE_TIMEOUT_S if key.startswith("file:") else REDIS_TIMEOUT_S


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def state_of(settings: BotSettings, clock: Callable[[], float]) -> State:
    """The state of the settings. Raises InvalidRequest if the password can't be read."""
    memory = MemoryState(clock, settings.memory_mib * 2**20)
    if settings.state == "memory":
        return memory
    password = None
    if settings.redis_password_file:
        try:
            password = Path(settings.redis_password_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InvalidRequest(f"The file bots.redis_password_file can't be read: {error}.") from error
    redis: Redis = Redis.from_url(settings.redis_url, password=password, retry=Retry(NoBackoff(), 0))
    return RedisState(memory, redis, clock)
