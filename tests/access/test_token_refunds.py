"""Tokens that a request did not use are given back in the window that counted them, in memory and in Redis."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from limits import RateLimitItemPerSecond

from serve_app.access.counters import Counters
from serve_app.access.rate_limits import RateLimits
from serve_app.access.shared_counters import counters_of
from serve_app.caller import ANONYMOUS, CallerLimits
from serve_app.errors import RateLimited
from serve_app.settings_access import LimitSettings
from tests.fakes import FakeMeter
from tests.redis_server import RedisServer

WINDOW_S = 2
LIMIT = RateLimitItemPerSecond(1000, WINDOW_S)


@pytest.fixture(params=["memory", "redis"])
def counters(request: pytest.FixtureRequest) -> Counters:
    if request.param == "memory":
        return counters_of(LimitSettings(), FakeMeter())
    redis: RedisServer = request.getfixturevalue("redis")
    return counters_of(LimitSettings(redis_url=redis.url, redis_timeout_ms=1000), FakeMeter())


async def a_window_begins() -> None:
    await asyncio.sleep(WINDOW_S - time.time() % WINDOW_S + 0.01)


async def remaining(counters: Counters) -> int:
    (state,) = await counters.states([(LIMIT, "shop")])
    return state.remaining


async def test_tokens_are_given_back_at_once(counters: Counters) -> None:
    await a_window_begins()
    await counters.hit(LIMIT, "shop", 900)
    await counters.give_back(LIMIT, "shop", 700, 0.0)
    assert await remaining(counters) == 800


async def test_tokens_of_the_window_before_are_given_back_there(counters: Counters) -> None:
    """And not as a credit for the next one."""
    await a_window_begins()
    await counters.hit(LIMIT, "shop", 900)
    counted_at = time.monotonic()  # as `Admission` notes it
    await asyncio.sleep(WINDOW_S + 0.1)
    assert await remaining(counters) < 400  # most of it still counts
    await counters.hit(LIMIT, "shop", 100)
    await counters.give_back(LIMIT, "shop", 900, time.monotonic() - counted_at)
    assert await remaining(counters) == 900


async def test_tokens_that_count_no_more_are_not_given_back(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.access.rate_limits.MINUTE_S", WINDOW_S)
    limits = RateLimits(counters, lambda _: CallerLimits(), max_request_s=60)
    shop = replace(ANONYMOUS, id="shop", limits=CallerLimits(tokens_per_minute=1000))
    await a_window_begins()
    long = limits.open(shop)
    await long.enter()
    await long.reserve(tokens=900, pictures=0)
    await asyncio.sleep(2 * WINDOW_S + 0.2)
    other = limits.open(shop)
    await other.enter()
    await other.reserve(tokens=600, pictures=0)
    await long.close(tokens=0)
    with pytest.raises(RateLimited, match="400 are left"):
        await limits.open(shop).reserve(tokens=600, pictures=0)
