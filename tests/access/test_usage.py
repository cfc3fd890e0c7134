"""Use of callers by day, in this process and in a real Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from serve_app.access.usage import DAY_S, GATHER_S, KEPT_DAYS, LocalUsage, UsageRecorder, Used, usage_recorder
from serve_app.caller import Caller
from serve_app.settings_access import LimitSettings
from tests.access.clock import Clock
from tests.fakes import FakeMeter
from tests.redis_server import RedisServer

NOON = 1_800_000_000.0
USED = Used(1, 100, 20, 2, 12.5)


@pytest.fixture(params=["process", "redis"])
def settings(request: pytest.FixtureRequest) -> LimitSettings:
    return LimitSettings(redis_url=request.getfixturevalue("redis").url if request.param == "redis" else "")


def recorder(settings: LimitSettings, clock: Clock) -> UsageRecorder:
    return usage_recorder(settings, FakeMeter(), clock)


async def test_use_is_added_up_by_caller_tenant_and_day(settings: LimitSettings) -> None:
    clock = Clock(NOON)
    usage = recorder(settings, clock)
    shop, other = Caller("shop", "acme"), Caller("shop", "zeta")
    for caller in (shop, shop, other):
        usage.record(caller, USED)
    await asyncio.sleep(0.1)
    clock.now += DAY_S
    usage.record(shop, USED)
    await asyncio.sleep(0.1)
    assert await usage.of_caller(shop) == {"2027-01-16": USED, "2027-01-15": USED + USED}
    assert await usage.of_caller(other) == {"2027-01-15": USED}
    assert await usage.of_caller(Caller("nobody")) == {}
    clock.now += KEPT_DAYS * DAY_S
    assert await usage.of_caller(shop) == {}


async def test_use_of_many_requests_at_once_is_added_together(redis: RedisServer) -> None:
    usage = recorder(LimitSettings(redis_url=redis.url), Clock(NOON))
    async with Redis.from_url(redis.url) as client:
        await usage.of_caller(Caller("shop"))  # connects
        before = await client.info("stats")
        for _ in range(50):
            usage.record(Caller("shop"), USED)
            await asyncio.sleep(0.002)
        await asyncio.sleep(2 * GATHER_S)
        after = await client.info("stats")
    assert after["total_reads_processed"] - before["total_reads_processed"] <= 3 + 1  # and the look at the numbers
    assert (await usage.of_caller(Caller("shop")))["2027-01-15"].requests == 50


async def test_a_reader_waits_for_use_that_is_being_added() -> None:
    class SlowUsage(LocalUsage):
        async def add(self, day: str, tenant: str, caller: str, used: Used) -> None:
            await asyncio.sleep(0.05)
            await super().add(day, tenant, caller, used)

    usage = UsageRecorder(SlowUsage(), FakeMeter(), Clock(NOON), timeout_s=5)
    shop = Caller("shop", "acme")
    usage.record(shop, USED)
    await asyncio.sleep(0.01)  # the background has taken it and waits for the store
    assert await usage.of_caller(shop) == {"2027-01-15": USED}


async def test_a_reader_that_leaves_loses_no_use(redis: RedisServer) -> None:
    usage, shop = recorder(LimitSettings(redis_url=redis.url), Clock(NOON)), Caller("shop")
    usage.record(shop, USED)
    reading = asyncio.create_task(usage.of_caller(shop))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.sleep(0.1)
    assert await usage.of_caller(shop) == {"2027-01-15": USED}


async def test_names_with_separators_are_different_callers(settings: LimitSettings) -> None:
    usage = recorder(settings, Clock(NOON))
    usage.record(Caller("c", "a:b"), USED)
    await asyncio.sleep(0.1)
    assert await usage.of_caller(Caller("b:c", "a")) == {}


async def test_two_replicas_add_up_in_redis(redis: RedisServer) -> None:
    settings, caller = LimitSettings(redis_url=redis.url), Caller("shop")
    one, two = recorder(settings, Clock(NOON)), recorder(settings, Clock(NOON))
    one.record(caller, USED)
    two.record(caller, USED)
    await asyncio.sleep(0.1)
    assert await one.of_caller(caller) == {"2027-01-15": USED + USED}


async def test_without_redis_recording_fails_silently_for_requests_and_reading_says_so(tmp_path: Path) -> None:
    usage = recorder(LimitSettings(redis_url=RedisServer(tmp_path).url), Clock(NOON))
    usage.record(Caller("shop"), USED)
    await asyncio.sleep(0.1)
    with pytest.raises(ConnectionError):
        await usage.of_caller(Caller("shop"))
