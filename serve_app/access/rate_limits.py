"""Rate limits of callers and tenants: what a request may use, and what it has really used."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, TypeAlias

from limits import RateLimitItemPerSecond

from serve_app.access.counters import Counters, WindowState, new_lease
from serve_app.caller import Caller, CallerLimits
from serve_app.errors import RateLimited

Resource: TypeAlias = Literal["requests", "tokens", "images"]  # as in OpenAI's header names
MINUTE_S: Final = 60
MAX_WINDOW_S: Final = 60  # of limits of several requests
MAX_SINGLE_WINDOW_S: Final = 30 * 24 * 3600  # of limits of one request
LEASE_MARGIN_S: Final = 60  # after the deadline of a request; a replica that died frees its places then
RETRY_BUSY_S: Final = 1.0
WORDS: Final[dict[Resource, str]] = {"requests": "requests", "tokens": "tokens", "images": "pictures"}


@dataclass(frozen=True, slots=True)
class Window:
    """A limit of one resource for one caller or tenant."""

    resource: Resource
    key: str
    whose: str  # for messages: "the caller 'shop'"
    limit: RateLimitItemPerSecond


class RateLimits:
    """Admits requests by the limits of their caller and its tenant."""

    def __init__(
        self, counters: Counters, tenant_limits: Callable[[str], CallerLimits], *, max_request_s: float
    ) -> None:
        self._counters = counters
        self._tenant_limits = tenant_limits
        self._lease_s = math.ceil(max_request_s) + LEASE_MARGIN_S

    def open(self, caller: Caller) -> Admission:
        """The admission of a request of this caller; nothing is counted yet."""
        # With the length of the tenant, as names may contain colons.
        key, whose = f"caller:{len(caller.tenant)}:{caller.tenant}:", f"the caller {caller.id!r}"
        counted = (
            (key + (caller.limits_key or caller.id), whose, caller.limits),
            (key + caller.id, whose, caller.issuer_limits),
            (f"tenant:{caller.tenant}", f"the tenant {caller.tenant!r}", self._tenant_limits(caller.tenant)),
        )
        windows = [window for key, whose, limits in counted for window in _windows(key, whose, limits)]
        places = [Places(key, whose, limits.concurrent_requests) for key, whose, limits in counted]
        return Admission(self._counters, windows, [each for each in places if each.limit], self._lease_s)


@dataclass(frozen=True, slots=True)
class Places:
    """A limit of requests in progress for one caller or tenant."""

    key: str
    whose: str
    limit: int


class Admission:
    """What one request has counted; `close` replaces estimates by what was really used and frees its places."""

    def __init__(self, counters: Counters, windows: list[Window], places: list[Places], lease_s: int) -> None:
        self._counters = counters
        self._windows = windows
        self._places = places
        self._lease, self._lease_s = new_lease(), lease_s
        self._entered: list[Places] = []
        self._reserved: dict[Window, tuple[int, float]] = {}  # tokens, and when they were counted (time.monotonic)
        self._states: dict[Window, WindowState] = {}

    async def enter(self) -> None:
        """Counts the request, before its body is read. Raises RateLimited, also if no token or picture is left."""
        for place in self._places:
            if not await self._counters.acquire(place.key, place.limit, self._lease, self._lease_s):
                error = RateLimited(
                    f"{_capitalized(place.whose)} has {place.limit} requests in progress, its limit. Retry when one of"
                    " them has ended."
                )
                error.retry_after_s = RETRY_BUSY_S
                raise error
            self._entered.append(place)
        await self._hit("requests", 1)
        others = [window for window in self._windows if window.resource != "requests"]
        if others:
            states = await self._counters.states([(window.limit, window.key) for window in others])
            self._states.update(zip(others, states, strict=True))
        for window in others:
            if self._states[window].remaining < 1:
                raise self._refusal(window, 1)

    async def reserve(self, *, tokens: int, pictures: int) -> None:
        """Counts pictures, and tokens as an estimate, before work begins. Raises RateLimited."""
        for window in self._of("tokens"):
            estimate = min(tokens, window.limit.amount)
            await self._hit_window(window, estimate)
            self._reserved[window] = estimate, time.monotonic()
        if pictures:  # last: `close` gives back tokens of a refused request, not pictures
            await self._hit("images", pictures)

    async def close(self, *, tokens: int) -> None:
        """Ends the request, which has used so many tokens."""
        for place in self._entered:
            await self._counters.release(place.key, self._lease)
        self._entered.clear()
        for window in self._of("tokens"):
            reserved, reserved_at = self._reserved.pop(window, (0, 0.0))
            if tokens > reserved:
                await self._counters.record(window.limit, window.key, tokens - reserved)
            elif tokens < reserved:
                age_s = time.monotonic() - reserved_at
                await self._counters.give_back(window.limit, window.key, reserved - tokens, age_s)

    def headers(self) -> dict[str, str]:
        """OpenAI's headers, of the limit of each resource that has the smallest share left."""
        headers = {}
        for resource in WORDS:
            states = [(window, self._states[window]) for window in self._of(resource) if window in self._states]
            if states:
                window, state = min(states, key=lambda each: each[1].remaining / each[0].limit.amount)
                headers[f"x-ratelimit-limit-{resource}"] = str(window.limit.amount)
                headers[f"x-ratelimit-remaining-{resource}"] = str(state.remaining)
                headers[f"x-ratelimit-reset-{resource}"] = f"{state.reset_s:.3f}s"
        return headers

    async def _hit(self, resource: Resource, amount: int) -> None:
        for window in self._of(resource):
            await self._hit_window(window, amount)

    async def _hit_window(self, window: Window, amount: int) -> None:
        """Counts `amount`. Raises RateLimited."""
        allowed, self._states[window] = await self._counters.hit(window.limit, window.key, amount)
        if not allowed:
            raise self._refusal(window, amount)

    def _of(self, resource: Resource) -> list[Window]:
        return [window for window in self._windows if window.resource == resource]

    def _refusal(self, window: Window, amount: int) -> RateLimited:
        limit, state = window.limit, self._states[window]
        seconds, words = limit.get_expiry(), WORDS[window.resource]
        rule = f"{_capitalized(window.whose)} may use {limit.amount} {words} in {seconds} seconds"
        error = RateLimited(
            f"{rule}; {state.remaining} are left, and this request needs {amount}."
            if amount <= limit.amount
            else f"{rule}; this request needs {amount} and can never be accepted."
        )
        missing = min(amount, limit.amount) - state.remaining
        error.retry_after_s = max(1.0, missing * seconds / limit.amount)
        return error


def _windows(key: str, whose: str, limits: CallerLimits) -> list[Window]:
    windows = []
    if limits.requests_per_second:
        windows.append(Window("requests", f"{key}:requests", whose, _per_second(limits.requests_per_second)))
    if limits.tokens_per_minute:
        minute = RateLimitItemPerSecond(limits.tokens_per_minute, MINUTE_S)
        windows.append(Window("tokens", f"{key}:tokens", whose, minute))
    if limits.pictures_per_minute:
        minute = RateLimitItemPerSecond(limits.pictures_per_minute, MINUTE_S)
        windows.append(Window("images", f"{key}:images", whose, minute))
    return windows


def _per_second(rate: float) -> RateLimitItemPerSecond:
    """A whole number of requests in a whole number of seconds: 0.5 per second is 1 in 2 seconds."""
    if rate < 1 / MAX_WINDOW_S:
        return RateLimitItemPerSecond(1, math.ceil(1 / max(rate, 1 / MAX_SINGLE_WINDOW_S)))
    fraction = Fraction(rate).limit_denominator(MAX_WINDOW_S)
    return RateLimitItemPerSecond(fraction.numerator, fraction.denominator)


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
