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
REDIS_TIMEOUT_S: Final = 0.5
PAUSE_S: Final = 5.0  # after a failure Redis is not called

_log = logging.getLogger("glm.bots")


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

    async def unfinished(self) -> list[str]: ...


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

    There is one process of bots, so memory is right where it has a value. If Redis fails, the bots work on in memory.
    """

    def __init__(self, memory: MemoryState, redis: Redis, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._redis = redis
        self._clock = clock
        self._paused_until = 0.0

    async def get(self, key: str) -> bytes | None:
        known = await self._memory.get(key)
        if known is not None:
            return known
        value: bytes | None = await self._call(lambda: self._redis.get(PREFIX + key))
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._memory.set(key, value, ttl_s)
        await self._call(lambda: self._redis.set(PREFIX + key, value, px=max(1, round(ttl_s * 1000))))

    async def claim(self, key: str, value: bytes, ttl_s: float) -> bytes:
        known = await self._memory.claim(key, value, ttl_s)
        if known != value:
            return known
        earlier: bytes | None = await self._call(
            lambda: self._redis.set(PREFIX + key, value, px=max(1, round(ttl_s * 1000)), nx=True, get=True)
        )
        if earlier is None:
            return value
        await self._memory.set(key, earlier, ttl_s)
        return earlier

    async def renew(self, key: str, ttl_s: float) -> None:
        await self._memory.renew(key, ttl_s)
        await self._call(lambda: self._redis.pexpire(PREFIX + key, max(1, round(ttl_s * 1000))))

    async def delete(self, key: str) -> None:
        await self._memory.delete(key)
        await self._call(lambda: self._redis.delete(PREFIX + key))

    async def open(self, member: str) -> None:
        await self._memory.open(member)
        await self._call(lambda: self._redis.sadd(PREFIX + "unfinished", member))

    async def close(self, member: str) -> None:
        await self._memory.close(member)
        await self._call(lambda: self._redis.srem(PREFIX + "unfinished", member))

    async def unfinished(self) -> list[str]:
        members: set[bytes] | None = await self._call(lambda: self._redis.smembers(PREFIX + "unfinished"))
        return sorted({*await self._memory.unfinished(), *(each.decode() for each in members or ())})

    async def _call(self, command: Callable[[], Any]) -> Any:
        """The result, or None if Redis does not respond."""
        if self._clock() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                return await command()
        except (RedisError, OSError, TimeoutError) as error:
            self._paused_until = self._clock() + PAUSE_S
            _log.warning("The Redis of the bots did not respond (%s); they use their memory.", type(error).__name__)
            return None


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
