"""Load shedding: refuses a request that would wait too long, by the measured rate, before any work on it.

The rate at which this process completes requests is measured while it is busy. With `n` requests in flight, a new
one is expected to wait `n / rate` seconds; if that is longer than allowed, it is refused with 503 at once, before its
body is read. (Little's law: in flight = rate x time in the system.)
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.callbacks import CALLBACK_PREFIX
from serve_app.errors import Overloaded
from serve_app.ingress.errors import plain_error_response
from serve_app.ingress.header_filter import request_id_header
from serve_app.ingress.request_log import UNMATCHED
from serve_app.metrics import REJECTIONS, REQUESTS, Meter

_log = logging.getLogger("glm.ingress")


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """How much is accepted."""

    max_wait_s: float  # a request that would take longer is refused
    min_in_flight: int  # this many are always accepted; also what counts as busy
    max_in_flight: int  # never more, however fast they are completed


class LoadLimit:
    """Counts requests in flight and measures how fast they are completed."""

    WINDOW_S = 5.0  # of busy time, for one measurement of the rate, and as many requests as make it busy
    LONGEST_WINDOW_S = 30.0  # with fewer requests
    WEIGHT = 0.5  # of the newest measurement

    def __init__(self, limits: LoadLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self.in_flight = 0
        self.rate: float | None = None  # completed requests a second while busy; None: not measured yet
        self._busy_s = 0.0
        self._busy_since: float | None = None
        self._completed = 0

    def check(self) -> None:
        """Raises Overloaded if one more request would have to wait too long."""
        wait_s = self.expected_wait_s()
        if self.in_flight >= self._limits.max_in_flight or wait_s > self._limits.max_wait_s:
            error = Overloaded(
                f"The service has {self.in_flight} requests in progress, and a new one would take about"
                f" {wait_s:.0f} seconds (the limit is {self._limits.max_wait_s:g}). Retry later."
            )
            error.retry_after_s = max(1.0, wait_s - self._limits.max_wait_s, wait_s / 4)
            raise error

    def enter(self) -> None:
        """Accepts one more request; raises Overloaded if it would have to wait too long."""
        self.check()
        self.in_flight += 1
        if self.in_flight == self._limits.min_in_flight:
            self._busy_since = self._clock()

    def leave(self, *, completed: bool) -> None:
        """One request less; `completed`: it counts for the rate."""
        if self._busy_since is not None:
            now = self._clock()
            self._busy_s += now - self._busy_since
            self._completed += completed
            self._busy_since = now if self.in_flight > self._limits.min_in_flight else None
            window_s = self.WINDOW_S if self._completed >= self._limits.min_in_flight else self.LONGEST_WINDOW_S
            if self._busy_s >= window_s:
                self._measure()
        self.in_flight -= 1

    def expected_wait_s(self) -> float:
        """Seconds that a new request is expected to take; 0 while few are in flight or no rate is known."""
        if self.rate is None or self.in_flight < self._limits.min_in_flight:
            return 0.0
        return (self.in_flight + 1) / self.rate

    def _measure(self) -> None:
        # At least one: a rate of zero would refuse everything for good.
        rate = max(self._completed, 1) / self._busy_s
        self.rate = rate if self.rate is None else self.rate + self.WEIGHT * (rate - self.rate)
        self._busy_s, self._completed = 0.0, 0


class LoadCheckMiddleware:
    """ASGI middleware: refuses POST requests before their bodies are read; others, and callbacks of bots, always pass.

    It is the outermost one, and a refusal costs as little as possible: under a load of many times the capacity, the
    time of refusals is taken from the model on the same machine. So they are counted and logged once a second.
    """

    SUMMARY_S = 1.0

    def __init__(self, app: ASGIApp, *, load: LoadLimit, meter: Meter, paths: Container[str]) -> None:
        self._app = app
        self._load = load
        self._meter = meter
        self._paths = paths
        self._refused: Counter[str] = Counter()  # by route, since the last summary

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_limited(scope):
            try:
                self._load.check()
            except Overloaded as error:
                self._count(scope["path"])
                request_id = request_id_header(scope["headers"]) or uuid.uuid4().hex
                response = plain_error_response(error, scope["path"], request_id)
                response.headers["x-request-id"] = request_id
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _count(self, path: str) -> None:
        if not self._refused:
            asyncio.get_running_loop().call_later(self.SUMMARY_S, self._summarize)
        self._refused[path if path in self._paths else UNMATCHED] += 1

    def _summarize(self) -> None:
        for route, count in self._refused.items():
            self._meter.count(REQUESTS, count, route=route, status=str(Overloaded.status))
        total = self._refused.total()
        self._meter.count(REJECTIONS, total, code=Overloaded.code)
        _log.warning("%d requests were refused within a second; %d are in progress.", total, self._load.in_flight)
        self._refused.clear()


class LoadLimitMiddleware:
    """ASGI middleware: counts the requests in progress, from the time their bodies are complete.

    A request that fails after a while counts for the rate as an answered one does: in Little's law it is what leaves.
    48 pictures at slow addresses seemed to be a service that completes nothing, and everyone was refused.
    """

    SLOW_S = 1.0

    def __init__(self, app: ASGIApp, *, load: LoadLimit) -> None:
        self._app = app
        self._load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_limited(scope):
            await self._app(scope, receive, send)
            return
        self._load.enter()
        entered = asyncio.get_running_loop().time()
        completed = False

        async def send_watched(message: Message) -> None:
            nonlocal completed
            if message["type"] == "http.response.start":
                completed = message["status"] == 200
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except BaseException:
            completed = False
            raise
        finally:
            slow = asyncio.get_running_loop().time() - entered >= self.SLOW_S
            self._load.leave(completed=completed or slow)


def _is_limited(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and scope["method"] == "POST" and not scope["path"].startswith(CALLBACK_PREFIX))
