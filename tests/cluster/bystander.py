"""An ordinary client that uses the service while somebody attacks it, and measures how long it waits."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

PICTURE = (Path(__file__).parents[2] / "benchmarks" / "evaluation" / "labels-002.jpg").read_bytes()
SHARED = 3 if "PYTEST_XDIST_WORKER" in os.environ else 1  # another worker's tests take their part of the two cores
ANSWER_LIMIT_S = 3.0 * SHARED
HEALTH_LIMIT_S = 1.0 * SHARED
SLOWER = 8  # how many times as long as without an attack it may take where the machine itself is slow


class Bystander:
    """Asks about a picture every second and for the service's health five times a second."""

    def __init__(self, base_url: str) -> None:
        self.answers_s: list[float] = []
        self.health_s: list[float] = []
        self.failures: list[str] = []
        self._base_url = base_url
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._ask, self.answers_s, 1.0), daemon=True),
            threading.Thread(target=self._repeat, args=(self._health, self.health_s, 0.2), daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def check(self, undisturbed: Bystander | None) -> None:
        """Fails if a request failed or waited too long; `undisturbed` saw the same machine without an attack."""
        assert not self.failures, self.failures[:3]
        assert self.answers_s, "the bystander got no answers"
        if undisturbed is not None:
            answers_s, health_s = max(undisturbed.answers_s), max(undisturbed.health_s)
            assert p99(self.answers_s) < max(ANSWER_LIMIT_S, SLOWER * answers_s), sorted(self.answers_s)
            assert max(self.health_s) < max(HEALTH_LIMIT_S, SLOWER * health_s), sorted(self.health_s)[-5:]

    def _repeat(self, request: object, times_s: list[float], period_s: float) -> None:
        with httpx.Client(base_url=self._base_url, timeout=60) as client:
            while not self._stop.wait(period_s):
                started = time.monotonic()
                try:
                    response = request(client)  # type: ignore[operator]
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                times_s.append(time.monotonic() - started)
                if response.status_code != 200:
                    self.failures.append(f"{response.status_code} {response.text[:200]}")

    def _ask(self, client: httpx.Client) -> httpx.Response:
        form = {"question": "What is the phone number?", "temperature": "0"}
        return client.post("/v1/ask", data=form, files={"image": PICTURE})

    def _health(self, client: httpx.Client) -> httpx.Response:
        return client.get("/healthz")


def p99(times_s: list[float]) -> float:
    """The 99th percentile: of up to 100 times, the longest."""
    return sorted(times_s)[math.ceil(0.99 * len(times_s)) - 1]


@contextmanager
def bystander(base_url: str, undisturbed: Bystander | None = None, least_s: float = 3.0) -> Iterator[Bystander]:
    """A bystander during the block and for at least this long; checked at the end."""
    one = Bystander(base_url)
    started = time.monotonic()
    one.start()
    try:
        yield one
        time.sleep(max(0.0, least_s - (time.monotonic() - started)))
    finally:
        one.stop()
    one.check(undisturbed)
