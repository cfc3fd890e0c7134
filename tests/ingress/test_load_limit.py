"""Load shedding: what is refused before any work, by the measured rate."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serve_app.errors import Overloaded
from serve_app.ingress.load_limit import LoadCheckMiddleware, LoadLimit, LoadLimitMiddleware, LoadLimits
from serve_app.ingress.outer_middlewares import load_limits
from serve_app.settings import Settings
from tests.fakes import FakeMeter
from tests.ingress.client import soon

LIMITS = LoadLimits(max_wait_s=10.0, min_in_flight=4, max_in_flight=100)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def busy(load: LoadLimit, clock: Clock, rate: float, seconds: float) -> None:
    """Requests that are completed at a rate while `min_in_flight` and one more are in progress."""
    for _ in range(LIMITS.min_in_flight + 1):
        load.enter()
    for _ in range(round(rate * seconds)):
        clock.now += 1 / rate
        load.leave(completed=True)
        load.enter()


def test_before_a_rate_is_known_only_the_fixed_limit_counts() -> None:
    load = LoadLimit(LIMITS, Clock())
    for _ in range(100):
        load.enter()
    with pytest.raises(Overloaded, match="100 requests in progress"):
        load.enter()


@pytest.mark.parametrize("rate", [1.0, 2.0, 5.0])
def test_the_limit_is_what_the_measured_rate_completes_in_the_longest_wait(rate: float) -> None:
    clock = Clock()
    load = LoadLimit(LIMITS, clock)
    busy(load, clock, rate, 30)
    while load.expected_wait_s() <= LIMITS.max_wait_s:
        load.enter()
    assert load.in_flight == pytest.approx(rate * LIMITS.max_wait_s, abs=2)
    with pytest.raises(Overloaded) as refusal:
        load.enter()
    assert refusal.value.retry_after_s is not None
    assert refusal.value.retry_after_s >= 1


def test_an_idle_time_does_not_lower_the_rate() -> None:
    clock = Clock()
    load = LoadLimit(LIMITS, clock)
    busy(load, clock, 5.0, 30)
    rate = load.rate
    for _ in range(LIMITS.min_in_flight + 1):
        load.leave(completed=True)
    clock.now += 3600
    assert load.rate == rate
    for _ in range(40):
        load.enter()


def test_the_first_requests_that_began_together_do_not_count_as_a_low_rate() -> None:
    clock = Clock()
    load = LoadLimit(LoadLimits(max_wait_s=60.0, min_in_flight=64, max_in_flight=320), clock)
    for _ in range(80):
        load.enter()
    clock.now = 6.0
    for _ in range(200):  # 80 callers; the first answers come after 6 s, then 10 a second
        load.leave(completed=True)
        load.enter()
        clock.now += 0.1
    assert load.rate == pytest.approx(10, rel=0.5)


def test_few_requests_are_always_accepted() -> None:
    clock = Clock()
    load = LoadLimit(LIMITS, clock)
    for _ in range(LIMITS.min_in_flight):
        load.enter()
    clock.now += 1000  # nothing was completed for long
    load.leave(completed=False)
    assert load.rate == pytest.approx(1 / 1000)
    load.enter()
    with pytest.raises(Overloaded):
        load.enter()


async def test_refusals_do_no_work_and_are_counted_and_logged_together(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadCheckMiddleware, "SUMMARY_S", 3600)
    reached: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    load, meter = LoadLimit(LoadLimits(10.0, 1, 1), Clock()), FakeMeter()
    load.enter()
    check = LoadCheckMiddleware(app, load=load, meter=meter, paths={"/v1/ask"})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(check), base_url="http://localhost") as client:
        refused = await client.post("/v1/ask", headers={"X-Request-ID": "a-1"})
        await client.post("/v1/ask")
        anthropic = await client.post("/v1/messages", headers={"X-Request-ID": "a-2"})
        assert (await client.get("/healthz")).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-request-id"] == "a-1"
    assert (anthropic.json()["error"]["type"], anthropic.json()["request_id"]) == ("overloaded_error", "a-2")
    assert reached == ["/healthz"]
    check._summarize()
    assert meter.counts["glm_requests_total", "/v1/ask", "503"] == 2
    assert meter.counts["glm_requests_total", "unmatched", "503"] == 1
    assert meter.counts["glm_rejections_total", "overloaded"] == 3
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "3 requests were refused within a second; 1 are in progress."
    ]


async def test_refusals_are_counted_and_logged_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoadCheckMiddleware, "SUMMARY_S", 0.01)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("reached")

    load, meter = LoadLimit(LoadLimits(10.0, 1, 1), Clock()), FakeMeter()
    load.enter()
    check = LoadCheckMiddleware(app, load=load, meter=meter, paths={"/v1/ask"})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(check), base_url="http://localhost") as client:
        for refusals in (1, 2):
            assert (await client.post("/v1/ask")).status_code == 503
            await soon(lambda: meter.counts["glm_rejections_total", "overloaded"] == refusals)  # noqa: B023


@pytest.mark.parametrize(("status", "seconds", "counted"), [(200, 0.0, True), (400, 0.0, False), (400, 0.05, True)])
async def test_a_request_that_fails_after_a_while_counts_for_the_rate(
    status: int, seconds: float, counted: bool
) -> None:
    """48 pictures at slow addresses made the service refuse everybody: it seemed to complete nothing."""
    seen: list[bool] = []

    class Load(LoadLimit):
        def leave(self, *, completed: bool) -> None:
            seen.append(completed)
            super().leave(completed=completed)

    class Middleware(LoadLimitMiddleware):
        SLOW_S = 0.03 if seconds else 3600.0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(Middleware(app, load=Load(LIMITS, Clock())))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.post("/")
    assert seen == [counted]


def test_a_few_requests_that_take_long_do_not_make_the_service_seem_slow() -> None:
    clock = Clock()
    load = LoadLimit(LIMITS, clock)
    for _ in range(LIMITS.min_in_flight + 1):
        load.enter()
    clock.now += 9  # nothing has been completed, and then one is
    load.leave(completed=True)
    assert load.rate is None


@pytest.mark.parametrize(("engines", "ingresses", "share"), [(1, 0, 1), (1, 1, 1), (4, 4, 1), (4, 1, 4), (4, 3, 2)])
def test_an_ingress_accepts_what_its_share_of_the_engines_can_hold(engines: int, ingresses: int, share: int) -> None:
    sections = {
        "engine": {"max_slots": 64, "max_waiting": 100},
        "replicas": {"engine": engines, "ingress": ingresses},
    }
    limits = load_limits(Settings.model_validate(sections))
    assert (limits.min_in_flight, limits.max_in_flight) == (share * 64, share * 164)
