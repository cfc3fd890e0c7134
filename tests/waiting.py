"""Waits for a condition; fails with a description of what was seen instead."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx


def wait_until(
    condition: Callable[[], bool], limit_s: float, describe: str | Callable[[], str], every_s: float = 0.25
) -> float:
    """Polls until the condition holds; returns the seconds that it took.

    A condition that cannot be read yet (a refused connection, a field that is not there) does not hold.
    Raises AssertionError with the description after `limit_s`.
    """
    started = time.monotonic()
    while True:
        problem = ""
        try:
            if condition():
                return time.monotonic() - started
        except (httpx.HTTPError, LookupError, ValueError) as error:
            problem = f" ({error!r})"
        if time.monotonic() - started > limit_s:
            described = describe if isinstance(describe, str) else describe()
            raise AssertionError(f"Not within {limit_s:g} s: {described}{problem}")
        time.sleep(every_s)
