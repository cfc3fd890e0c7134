"""A circuit breaker: after some failures in a row, a service is not called for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 5
OPEN_S: Final = 5.0


class CircuitBreaker:
    """Whether a service may be called now; one call after the pause decides whether it is used again."""

    def __init__(
        self, failures: int = FAILURES, open_s: float = OPEN_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = failures
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._closed_at = 0.0  # when calls are allowed again

    def allows(self) -> bool:
        """Whether a call may be made now; during a pause, False for all."""
        if self._failures < self._limit:
            return True
        if self._clock() < self._closed_at:
            return False
        self._closed_at = self._clock() + self._open_s  # this call tries; others wait for its result
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self._limit:
            self._closed_at = self._clock() + self._open_s
