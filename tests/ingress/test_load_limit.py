"""Load shedding: what is refused before any work, by the measured rate."""

from __future__ import annotations

import pytest

from serve_app.errors import Overloaded
from serve_app.ingress.load_limit import LoadLimit, LoadLimits

LIMITS = LoadLimits(max_wait_s=10.0, min_in_flight=4, max_in_flight=100)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def busy(load: LoadLimit, clock: Clock, rate: float, seconds: float) -> None:
    """Requests that are completed at a rate while `min_in_flight` and one more are in work."""
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
    with pytest.raises(Overloaded, match="100 requests in work"):
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
