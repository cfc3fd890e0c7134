"""Counters in Redis, which all replicas share; a replica counts for itself while Redis does not respond."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar, cast

from limits import RateLimitItemPerSecond
from limits.aio.storage.redis.bridge import RedisBridge
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, RedisError

from serve_app.access.counters import (
    NO_LIMIT,
    Counters,
    Hit,
    LimitOfKey,
    LocalCounters,
    WindowState,
    window_state,
)
from serve_app.metrics import LIMIT_STORE_DOWN, LIMIT_STORE_ERRORS, Meter
from serve_app.redis_login import redis_login
from serve_app.settings_access import LimitSettings

T = TypeVar("T")
ScriptCall: TypeAlias = tuple[AsyncScript, list[str], list[int]]  # script, its keys and arguments

RETRY_S: Final = 1.0  # between two tries to reach Redis again
READS: Final = 5  # iterations of the event loop to wait for a response that has arrived but was not read
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


class RedisCounters:
    """Counts in Redis, for all processes that use it, with the scripts of the library `limits` for sliding windows."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._hit = redis.register_script(RedisBridge.SCRIPT_ACQUIRE_SLIDING_WINDOW)
        self._read = redis.register_script(RedisBridge.SCRIPT_SLIDING_WINDOW)
        self._acquire = redis.register_script(_ACQUIRE)
        self._give_back = redis.register_script(_GIVE_BACK)

    async def hit(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> Hit:
        keys, window_s = _window_keys(limit, key), limit.get_expiry()
        allowed, counted = await self._run(
            [(self._hit, keys, [limit.amount, window_s, amount]), (self._read, keys, [window_s])]
        )
        return Hit(bool(allowed), window_state(limit, _counts(counted)))

    async def record(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> None:
        await self._hit(keys=_window_keys(limit, key), args=[NO_LIMIT, limit.get_expiry(), amount])

    async def give_back(self, limit: RateLimitItemPerSecond, key: str, amount: int, age_s: float) -> None:
        await self._give_back(keys=_window_keys(limit, key), args=[limit.get_expiry(), amount, age_s])

    async def states(self, windows: Sequence[LimitOfKey]) -> list[WindowState]:
        calls = [(self._read, _window_keys(limit, key), [limit.get_expiry()]) for limit, key in windows]
        counted = await self._run(calls) if calls else []
        return [window_state(limit, _counts(each)) for (limit, _), each in zip(windows, counted, strict=True)]

    async def _run(self, calls: list[ScriptCall]) -> list[Any]:
        """The results of all scripts, in one message each way. Raises RedisError."""
        pipeline = self.redis.pipeline(transaction=False)
        for script, keys, args in calls:
            pipeline.evalsha(script.sha, len(keys), *keys, *args)
        results = await pipeline.execute(raise_on_error=False)
        for number, (script, keys, args) in enumerate(calls):
            if isinstance(results[number], NoScriptError):
                results[number] = await script(keys=keys, args=args)  # loads it
            elif isinstance(results[number], RedisError):
                raise results[number]
        return results

    async def acquire(self, key: str, limit: int, lease: str, ttl_s: int) -> bool:
        return bool(await self._acquire(keys=[f"{PREFIX}:leases:{key}"], args=[limit, ttl_s, lease]))

    async def release(self, key: str, lease: str) -> None:
        await self.redis.zrem(f"{PREFIX}:leases:{key}", lease)


def _window_keys(limit: RateLimitItemPerSecond, key: str) -> list[str]:
    """The keys of the previous and the current window, as the library names them."""
    current = f"{PREFIX}:{{{limit.key_for(key)}}}"
    return [f"{current}/-1", current]


def _counts(window: list[Any]) -> tuple[int, float, int, float]:
    """The library's reply: counts, and times to live in milliseconds, below 0 if there is none."""
    previous, previous_ttl_ms, current, current_ttl_ms = window
    return int(previous or 0), max(0, previous_ttl_ms) / 1000, int(current or 0), max(0, current_ttl_ms) / 1000


class SharedCounters:
    """Counts in Redis, and in this process while Redis does not respond in time: no request waits for it or fails.

    After a failure Redis is not used until it has responded to a ping; leases that could not be released are then.
    What Redis counts for this process is counted here too: a replica that has to count for itself does not begin with
    an empty window. What it has counted for itself is counted in Redis when that responds again.
    """

    def __init__(self, redis: RedisCounters, meter: Meter, *, timeout_s: float) -> None:
        self._redis = redis
        self._local = LocalCounters()
        self._meter = meter
        self._timeout_s = timeout_s
        self._recovering: asyncio.Task[None] | None = None
        self._unreleased: list[tuple[str, str]] = []
        self._background: set[asyncio.Task[None]] = set()
        self._local_leases: set[tuple[str, str]] = set()
        self._missed: dict[LimitOfKey, tuple[float, int]] = {}  # not counted by Redis: since when (time.time), how much

    async def hit(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> Hit:
        async def hit(counters: Counters) -> Hit:
            result = await counters.hit(limit, key, amount)
            if counters is not self._local:
                await self._copy(limit, key, amount, allowed=result.allowed)
            elif result.allowed:
                self._note_missed(limit, key, amount)
            return result

        return await self._try(hit)

    async def record(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> None:
        async def record(counters: Counters) -> None:
            await counters.record(limit, key, amount)
            if counters is not self._local:
                await self._local.record(limit, key, amount)
            else:
                self._note_missed(limit, key, amount)

        await self._try(record)

    async def give_back(self, limit: RateLimitItemPerSecond, key: str, amount: int, age_s: float) -> None:
        async def give_back(counters: Counters) -> None:
            await counters.give_back(limit, key, amount, age_s)
            if counters is not self._local:
                await self._local.give_back(limit, key, amount, age_s)
            else:
                self._note_missed(limit, key, -amount)

        await self._try(give_back)

    async def _copy(self, limit: RateLimitItemPerSecond, key: str, amount: int, *, allowed: bool) -> None:
        """Counts here what Redis allowed; after a refusal, so much that this amount would be refused here too."""
        if not allowed:
            (here,) = await self._local.states([(limit, key)])
            amount = here.remaining - amount + 1
        if amount > 0:
            await self._local.record(limit, key, amount)

    async def states(self, windows: Sequence[LimitOfKey]) -> list[WindowState]:
        return await self._try(lambda counters: counters.states(windows))

    async def acquire(self, key: str, limit: int, lease: str, ttl_s: int) -> bool:
        async def acquire(counters: Counters) -> bool:
            if counters is not self._local:
                try:
                    return await counters.acquire(key, limit, lease, ttl_s)
                except BaseException:  # also that the request was cancelled; Redis may still do it
                    self._start(self._release_in_redis(key, lease))
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
        self._start(self._count_missed())  # now that nothing is added to it
        _log.info("Redis of the limits responds again.")

    def _note_missed(self, limit: RateLimitItemPerSecond, key: str, amount: int) -> None:
        """Remembers what was counted here only, for as long as a window."""
        now = time.time()
        since, missed = self._missed.get((limit, key), (now, 0))
        if now - since > limit.get_expiry():
            since, missed = now, 0
        self._missed[limit, key] = since, missed + amount

    async def _count_missed(self) -> None:
        while self._missed and self._recovering is None:
            (limit, key), (since, amount) = self._missed.popitem()
            if amount <= 0 or time.time() - since > limit.get_expiry():
                continue
            try:
                await self._in_time(self._redis.record(limit, key, amount))
            except REDIS_FAILURES as error:
                self._note_missed(limit, key, amount)
                self._start_recovery(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

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
    redis = RedisCounters(redis_client(settings))
    return SharedCounters(redis, meter, timeout_s=settings.redis_timeout_ms / 1000)


def redis_client(settings: LimitSettings) -> Redis:
    """A client that connects when it is used. Raises InvalidRequest if the password can't be read."""
    client: Redis = Redis.from_url(settings.redis_url, **redis_login(settings, "limits"))
    return client
