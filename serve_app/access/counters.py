"""Counters of limits: sliding windows and requests in progress, in this process or in Redis."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from serve_app.metrics import LIMIT_STORE_DOWN, LIMIT_STORE_ERRORS, Meter
from serve_app.redis_login import redis_login
from serve_app.settings_access import LimitSettings

T = TypeVar("T")

NO_LIMIT: Final = 2**53  # for what is recorded in any case
RETRY_S: Final = 1.0  # between two tries to reach Redis again
READS: Final = 5  # turns of the event loop in which a response that has arrived is read
PREFIX: Final = "glm:limits"
REDIS_FAILURES: Final = (TimeoutError, OSError, RedisError)
# Lease: a member of a sorted set, scored by the time at which it ends, in seconds of Redis' own clock.
_ACQUIRE: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[3])
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[2]))
return 1
"""
# Of the counters of a sliding window, the current one has a time to live of two windows from its start.
_GIVE_BACK: Final = """
local window, amount, age = tonumber(ARGV[1]) * 1000, tonumber(ARGV[2]), tonumber(ARGV[3]) * 1000
local ttl = redis.call('PTTL', KEYS[2])
if ttl <= 0 then return end
local current_age = 2 * window - ttl
local key = KEYS[2]
if age > current_age + 5 then key = KEYS[1] end
if age > current_age + window then return end
local less = math.min(amount, tonumber(redis.call('GET', key) or 0))
if less > 0 then redis.call('DECRBY', key, less) end
"""
_log = logging.getLogger("glm.access.limits")


@dataclass(frozen=True, slots=True)
class WindowState:
    """What is left of a limit now, and the seconds until all of it is."""

    remaining: int
    reset_s: float


class Counters(Protocol):
    """Where limits are counted."""

    async def hit(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> bool:
        """Counts `amount` if the limit allows it; False if not."""

    async def record(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> None:
        """Counts `amount`, also above the limit."""

    async def give_back(self, limit: RateLimitItemPerSecond, key: str, amount: int, age_s: float) -> None:
        """Subtracts `amount` from the window in which it was counted `age_s` seconds ago, if that still counts."""

    async def state(self, limit: RateLimitItemPerSecond, key: str) -> WindowState: ...

    async def acquire(self, key: str, limit: int, lease: str, ttl_s: int) -> bool:
        """Takes one of `limit` places until it is released, or for `ttl_s`; False if all are taken."""

    async def release(self, key: str, lease: str) -> None: ...


class _Windows:
    """Sliding windows of the library `limits`."""

    def __init__(self, storage: MemoryStorage | RedisStorage) -> None:
        self._storage = storage
        self._windows = SlidingWindowCounterRateLimiter(storage)

    async def hit(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> bool:
        return await self._windows.hit(limit, key, cost=amount)

    async def record(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> None:
        await self._storage.acquire_sliding_window_entry(limit.key_for(key), NO_LIMIT, limit.get_expiry(), amount)

    async def state(self, limit: RateLimitItemPerSecond, key: str) -> WindowState:
        reset_at, remaining = await self._windows.get_window_stats(limit, key)
        return WindowState(max(0, remaining), max(0.0, reset_at - time.time()))


class LocalCounters(_Windows):
    """Counts in this process."""

    def __init__(self) -> None:
        self._memory = MemoryStorage()
        super().__init__(self._memory)
        self._leases: Counter[str] = Counter()

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


class RedisCounters(_Windows):
    """Counts in Redis, for all processes that use it."""

    def __init__(self, url: str, redis: Redis) -> None:
        self.redis = redis
        storage = RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix=PREFIX,
            connection_pool=self.redis.connection_pool,  # type: ignore[arg-type]
        )
        super().__init__(storage)
        self._acquire = self.redis.register_script(_ACQUIRE)
        self._give_back = self.redis.register_script(_GIVE_BACK)

    async def give_back(self, limit: RateLimitItemPerSecond, key: str, amount: int, age_s: float) -> None:
        current_key = f"{PREFIX}:{{{limit.key_for(key)}}}"  # as the library names it
        await self._give_back(keys=[f"{current_key}/-1", current_key], args=[limit.get_expiry(), amount, age_s])

    async def acquire(self, key: str, limit: int, lease: str, ttl_s: int) -> bool:
        return bool(await self._acquire(keys=[f"{PREFIX}:leases:{key}"], args=[limit, ttl_s, lease]))

    async def release(self, key: str, lease: str) -> None:
        await self.redis.zrem(f"{PREFIX}:leases:{key}", lease)


class SharedCounters:
    """Counts in Redis, and in this process while Redis does not respond in time: no request waits for it or fails.

    After a failure Redis is not used until it has responded to a ping; leases that could not be released are then.
    What Redis counts for this process is counted here too: a replica that has to count for itself does not begin with
    an empty window.
    """

    def __init__(self, redis: RedisCounters, meter: Meter, *, timeout_s: float) -> None:
        self._redis = redis
        self._local = LocalCounters()
        self._meter = meter
        self._timeout_s = timeout_s
        self._recovering: asyncio.Task[None] | None = None
        self._unreleased: list[tuple[str, str]] = []
        self._releasing: set[asyncio.Task[None]] = set()
        self._local_leases: set[tuple[str, str]] = set()

    async def hit(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> bool:
        async def hit(counters: Counters) -> bool:
            allowed = await counters.hit(limit, key, amount)
            if counters is not self._local:
                await self._copy(limit, key, amount, allowed=allowed)
            return allowed

        return await self._try(hit)

    async def record(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> None:
        async def record(counters: Counters) -> None:
            await counters.record(limit, key, amount)
            if counters is not self._local:
                await self._local.record(limit, key, amount)

        await self._try(record)

    async def give_back(self, limit: RateLimitItemPerSecond, key: str, amount: int, age_s: float) -> None:
        async def give_back(counters: Counters) -> None:
            await counters.give_back(limit, key, amount, age_s)
            if counters is not self._local:
                await self._local.give_back(limit, key, amount, age_s)

        await self._try(give_back)

    async def _copy(self, limit: RateLimitItemPerSecond, key: str, amount: int, *, allowed: bool) -> None:
        """Counts here what Redis allowed; after a refusal, so much that this amount would be refused here too."""
        if not allowed:
            amount = (await self._local.state(limit, key)).remaining - amount + 1
        if amount > 0:
            await self._local.record(limit, key, amount)

    async def state(self, limit: RateLimitItemPerSecond, key: str) -> WindowState:
        return await self._try(lambda counters: counters.state(limit, key))

    async def acquire(self, key: str, limit: int, lease: str, ttl_s: int) -> bool:
        async def acquire(counters: Counters) -> bool:
            if counters is not self._local:
                try:
                    return await counters.acquire(key, limit, lease, ttl_s)
                except BaseException:  # also that the request was cancelled; Redis may still do it
                    releasing = asyncio.create_task(self._release_in_redis(key, lease))
                    self._releasing.add(releasing)
                    releasing.add_done_callback(self._releasing.discard)
                    raise
            if acquired := await counters.acquire(key, limit, lease, ttl_s):
                self._local_leases.add((key, lease))
            return acquired

        return await self._try(acquire)

    async def release(self, key: str, lease: str) -> None:
        if (key, lease) in self._local_leases:
            self._local_leases.discard((key, lease))
            await self._local.release(key, lease)
            return
        await self._release_in_redis(key, lease)

    async def _release_in_redis(self, key: str, lease: str) -> None:
        """Releases the lease now, or when Redis responds again."""
        if self._recovering is None:
            try:
                await self._in_time(self._redis.release(key, lease))
                return
            except REDIS_FAILURES as error:
                self._start_recovery(error)
        self._unreleased.append((key, lease))

    async def _try(self, count: Callable[[Counters], Coroutine[Any, Any, T]]) -> T:
        if self._recovering is None:
            try:
                return await self._in_time(count(self._redis))
            except REDIS_FAILURES as error:
                self._start_recovery(error)
        return await count(self._local)

    async def _in_time(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call to Redis; raises TimeoutError after the time limit.

        Where this process was busy for so long that the response waits to be read, it is read first.
        """
        task = asyncio.create_task(call)
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
            for _ in range(READS):
                if task.done():
                    return task.result()
                await asyncio.sleep(0)
            raise TimeoutError
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _start_recovery(self, error: Exception) -> None:
        if self._recovering is None:
            self._meter.count(LIMIT_STORE_ERRORS)
            reason = type(error).__name__
            _log.warning("Redis of the limits does not respond (%s); this replica counts for itself.", reason)
            self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        while True:
            self._meter.set(LIMIT_STORE_DOWN, 1)
            await asyncio.sleep(RETRY_S)
            with suppress(*REDIS_FAILURES):
                await self._in_time(self._ping())
                await self._release_unreleased()
                break
        self._meter.set(LIMIT_STORE_DOWN, 0)
        self._recovering = None
        _log.info("Redis of the limits responds again.")

    async def _ping(self) -> None:
        await cast(Awaitable[bool], self._redis.redis.ping())

    async def _release_unreleased(self) -> None:
        """Releases all leases that wait for it. One that fails stays; others may be added meanwhile."""
        while self._unreleased:
            key, lease = self._unreleased.pop()
            try:
                await self._in_time(self._redis.release(key, lease))
            except BaseException:
                self._unreleased.append((key, lease))
                raise


def counters_of(settings: LimitSettings, meter: Meter) -> Counters:
    """Counters in Redis if the settings name one. Raises InvalidRequest if its password can't be read."""
    if not settings.redis_url:
        return LocalCounters()
    redis = RedisCounters(settings.redis_url, redis_client(settings))
    return SharedCounters(redis, meter, timeout_s=settings.redis_timeout_ms / 1000)


def redis_client(settings: LimitSettings) -> Redis:
    """A client that connects when it is used. Raises InvalidRequest if the password can't be read."""
    client: Redis = Redis.from_url(settings.redis_url, **redis_login(settings, "limits"))
    return client


def new_lease() -> str:
    return uuid.uuid4().hex
