"""Limits of callers and tenants, in this process: what is admitted, what is refused, and what is charged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from serve_app.access.counters import LocalCounters, window_state
from serve_app.access.rate_limits import RateLimits
from serve_app.caller import ANONYMOUS, Caller, CallerLimits
from serve_app.errors import RateLimited

pytestmark = pytest.mark.usefixtures("within_a_window")


def caller(name: str = "shop", tenant: str = "acme", **limits: float) -> Caller:
    return replace(ANONYMOUS, id=name, tenant=tenant, limits=CallerLimits(**limits))  # type: ignore[arg-type]


def limits_of(**tenant: float) -> RateLimits:
    return RateLimits(LocalCounters(), lambda _: CallerLimits(**tenant), max_request_s=60)  # type: ignore[arg-type]


async def test_without_limits_nothing_is_counted_and_no_header_is_sent() -> None:
    admission = limits_of().open(caller())
    await admission.enter()
    await admission.reserve(tokens=10**9, pictures=100)
    await admission.close(tokens=10**9)
    assert admission.headers() == {}


async def test_requests_per_second_are_admitted_up_to_the_limit_for_each_caller() -> None:
    limits, admitted = limits_of(), []
    for _ in range(9):
        for name in ("shop", "bank"):
            with suppress(RateLimited):
                await limits.open(caller(name, requests_per_second=4)).enter()
                admitted.append(name)
    assert 4 <= admitted.count("shop") <= 8  # a new second may have begun
    assert 4 <= admitted.count("bank") <= 8


async def test_a_refusal_names_the_limit_and_the_time_to_wait() -> None:
    limits, shop = limits_of(), caller(requests_per_second=0.1)
    await limits.open(shop).enter()
    with pytest.raises(RateLimited) as refused:
        await limits.open(shop).enter()
    assert refused.value.message == (
        "The caller 'shop' may use 1 requests in 10 seconds; 0 are left, and this request needs 1."
    )
    assert refused.value.retry_after_s == 10


async def test_a_rate_below_one_per_second_is_a_number_of_requests_in_several_seconds() -> None:
    limits = limits_of()
    await limits.open(caller(requests_per_second=0.1)).enter()
    with pytest.raises(RateLimited, match="may use 1 requests in 10 seconds"):
        await limits.open(caller(requests_per_second=0.1)).enter()


@pytest.mark.parametrize(("rate", "seconds"), [(1 / 60, 60), (0.008, 125), (1 / 86400, 86400), (1e-320, 2_592_000)])
async def test_a_rate_below_one_a_minute_is_one_request_in_more_than_a_minute(rate: float, seconds: int) -> None:
    limits = limits_of()
    await limits.open(caller(requests_per_second=rate)).enter()
    with pytest.raises(RateLimited, match=f"may use 1 requests in {seconds} seconds"):
        await limits.open(caller(requests_per_second=rate)).enter()


async def test_callers_of_one_name_in_two_tenants_are_two_callers() -> None:
    limits = limits_of()
    await limits.open(caller(tenant="a", requests_per_second=0.1)).enter()
    await limits.open(caller(tenant="b", requests_per_second=0.1)).enter()


async def test_callers_of_two_tenants_are_two_callers_also_if_names_contain_colons() -> None:
    limits = limits_of()
    await limits.open(caller("b:c", tenant="a", requests_per_second=0.1)).enter()
    await limits.open(caller("c", tenant="a:b", requests_per_second=0.1)).enter()


async def test_the_limit_of_a_tenant_is_that_of_all_its_callers_together() -> None:
    limits = limits_of(concurrent_requests=2)
    first, second = limits.open(caller("one")), limits.open(caller("two"))
    await first.enter()
    await second.enter()
    third = limits.open(caller("three"))
    with pytest.raises(RateLimited, match="The tenant 'acme' has 2 requests in progress"):
        await third.enter()
    await third.close(tokens=0)
    await first.close(tokens=0)
    await limits.open(caller("three")).enter()


async def test_a_refused_request_holds_no_place() -> None:
    limits = limits_of(concurrent_requests=1)
    occupied = limits.open(caller("one"))
    await occupied.enter()
    for _ in range(3):
        refused = limits.open(caller("two", concurrent_requests=1))
        with pytest.raises(RateLimited, match="The tenant"):
            await refused.enter()
        await refused.close(tokens=0)
    await occupied.close(tokens=0)
    await limits.open(caller("two", concurrent_requests=1)).enter()


async def test_tokens_are_charged_as_an_estimate_before_and_as_they_were_used_afterwards() -> None:
    limits, shop = limits_of(), caller(tokens_per_minute=1000)
    first = limits.open(shop)
    await first.enter()
    await first.reserve(tokens=900, pictures=0)
    assert first.headers()["x-ratelimit-remaining-tokens"] == "100"
    second = limits.open(shop)
    await second.enter()
    with pytest.raises(
        RateLimited, match="may use 1000 tokens in 60 seconds; 100 are left, and this request needs 200"
    ):
        await second.reserve(tokens=200, pictures=0)
    await second.close(tokens=0)
    await first.close(tokens=150)
    third = limits.open(shop)
    await third.enter()
    assert third.headers()["x-ratelimit-remaining-tokens"] == "850"


async def test_what_was_used_above_the_estimate_is_charged_too() -> None:
    limits, shop = limits_of(), caller(tokens_per_minute=1000)
    first = limits.open(shop)
    await first.enter()
    await first.reserve(tokens=100, pictures=0)
    await first.close(tokens=1500)
    with pytest.raises(RateLimited, match="0 are left"):
        await limits.open(shop).enter()


async def test_a_request_whose_estimate_is_above_the_limit_is_admitted_while_all_of_it_is_left() -> None:
    """max_tokens is a bound, not what is used; otherwise such a request could never be sent."""
    limits, shop = limits_of(), caller(tokens_per_minute=500)
    first = limits.open(shop)
    await first.enter()
    await first.reserve(tokens=1024, pictures=0)
    await first.close(tokens=20)
    second = limits.open(shop)
    await second.enter()
    assert second.headers()["x-ratelimit-remaining-tokens"] == "480"


async def test_more_pictures_than_a_minute_allows_can_never_be_accepted_and_the_message_says_so() -> None:
    admission = limits_of().open(caller(pictures_per_minute=3))
    await admission.enter()
    with pytest.raises(RateLimited, match="this request needs 4 and can never be accepted"):
        await admission.reserve(tokens=0, pictures=4)
    await admission.reserve(tokens=0, pictures=3)
    with pytest.raises(RateLimited, match="3 pictures in 60 seconds; 0 are left, and this request needs 1"):
        await admission.reserve(tokens=0, pictures=1)


async def test_a_request_that_is_refused_for_its_tokens_is_not_charged_for_its_pictures() -> None:
    limits, shop = limits_of(), caller(tokens_per_minute=1000, pictures_per_minute=3)
    first = limits.open(shop)
    await first.enter()
    await first.reserve(tokens=900, pictures=0)
    second = limits.open(shop)
    await second.enter()
    with pytest.raises(RateLimited, match="tokens"):
        await second.reserve(tokens=200, pictures=3)
    await second.close(tokens=0)
    await first.reserve(tokens=0, pictures=3)


async def test_the_headers_are_of_the_limit_with_the_smallest_share_left() -> None:
    admission = limits_of(requests_per_second=4).open(caller(requests_per_second=100))
    await admission.enter()
    assert admission.headers()["x-ratelimit-limit-requests"] == "4"
    assert admission.headers()["x-ratelimit-remaining-requests"] == "3"


async def test_over_some_seconds_no_more_requests_are_admitted_than_the_limit(
    within_a_window: Callable[[], float],
) -> None:
    limits, shop = limits_of(), caller(requests_per_second=50)
    admitted, loop = 0, asyncio.get_running_loop()
    began, of_window = loop.time(), within_a_window() % 1  # seconds of the first window that are over
    while loop.time() < began + 5:
        admission = limits.open(shop)
        with suppress(RateLimited):
            await admission.enter()
            admitted += 1
        await asyncio.sleep(0.004)
    assert admitted <= 50 * (loop.time() - began + of_window) + 1
    assert admitted >= 180  # a machine that pauses asks for less


@pytest.mark.parametrize(
    "counted", [(0, 0.0, 0, 0.0), (7, 1.3, 2, 3.3), (0, 0.0, 4, 3.1), (10, 0.4, 0, 2.4), (9, 2, 9, 4)]
)
async def test_what_is_left_is_what_the_library_says_of_the_same_counts(
    counted: tuple[int, float, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def counts(*_: object) -> tuple[int, float, int, float]:
        return counted

    storage, limit, now = MemoryStorage(), RateLimitItemPerSecond(10, 2), time.time()
    monkeypatch.setattr(storage, "get_sliding_window", counts)
    monkeypatch.setattr(time, "time", lambda: now)
    reset_at, remaining = await SlidingWindowCounterRateLimiter(storage).get_window_stats(limit, "shop")
    state = window_state(limit, counted)
    assert state.remaining == remaining
    assert state.reset_s == pytest.approx(reset_at - now)
