"""Leases in Redis are released also after a slow response, a cancelled request, or while others are released."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.access import shared_counters as counters_module
from serve_app.access.shared_counters import SharedCounters
from tests.fakes import FakeMeter
from tests.ingress.client import soon


class SlowRedis:
    """Leases in memory; a command that finds its name in `slow` waits until it is cancelled or `respond` is set."""

    def __init__(self) -> None:
        self.redis = self
        self.leases: set[tuple[str, str]] = set()
        self.slow: set[str] = set()
        self.waiting, self.respond = asyncio.Event(), asyncio.Event()

    async def ping(self) -> bool:
        return True

    async def acquire(self, key: str, limit: int, lease: str, ttl_s: int) -> bool:
        self.leases.add((key, lease))  # at once; only the response is slow
        await self._wait("acquire")
        return True

    async def release(self, key: str, lease: str) -> None:
        await self._wait(lease)
        self.leases.discard((key, lease))

    async def _wait(self, name: str) -> None:
        if name in self.slow:
            self.waiting.set()
            await self.respond.wait()


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters_module, "RETRY_S", 0.01)


def counters(redis: Any, timeout_s: float = 0.02) -> SharedCounters:
    return SharedCounters(redis, FakeMeter(), timeout_s=timeout_s)


async def test_a_lease_is_released_after_redis_was_slow_to_release_it() -> None:
    redis = SlowRedis()
    shared = counters(redis)
    assert await shared.acquire("shop", 1, "one", 60)
    redis.slow = {"one"}
    await shared.release("shop", "one")
    assert redis.leases == {("shop", "one")}
    redis.slow = set()
    await soon(lambda: not redis.leases)


async def test_a_lease_that_is_given_up_while_another_one_is_released_is_released_too() -> None:
    redis = SlowRedis()
    shared = counters(redis, timeout_s=5.0)
    for lease in ("one", "two"):
        assert await shared.acquire("shop", 2, lease, 60)
    shared._unreleased.append(("shop", "one"))
    redis.slow = {"one"}
    shared._recovering = asyncio.create_task(shared._recover())
    await redis.waiting.wait()
    await shared.release("shop", "two")
    redis.respond.set()
    await soon(lambda: not redis.leases)


async def test_a_request_that_is_cancelled_while_it_acquires_holds_no_lease_and_redis_stays_in_use() -> None:
    redis = SlowRedis()
    shared = counters(redis, timeout_s=5.0)
    redis.slow = {"acquire"}
    task = asyncio.create_task(shared.acquire("shop", 1, "one", 60))
    await redis.waiting.wait()
    task.cancel()
    await asyncio.wait([task])
    await soon(lambda: not redis.leases)
    assert shared._recovering is None


async def test_a_lease_that_redis_gave_too_late_is_released_and_the_local_one_stays() -> None:
    redis = SlowRedis()
    shared = counters(redis)
    redis.slow = {"acquire"}
    assert await shared.acquire("shop", 1, "one", 60)
    await soon(lambda: not redis.leases and shared._recovering is None)
    assert shared._local_leases == {("shop", "one")}
