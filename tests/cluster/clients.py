"""Load on a cluster: clients that ask one question after the other, through what a Kubernetes Service does."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

from tests.cluster.chat import ChatFailed, chat
from tests.cluster.nodes import PORT, Cluster
from tests.cluster.questions import fixed_length_body

PROBE_PERIOD_S = 5.0  # KubeRay's readiness probe of a worker: every 5 s, one failure takes it out of the Service
PROBE_TIMEOUT_S = 2.0
TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # a minute without a byte counts as a hang
Body = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How one request went; `failure` is empty for a complete answer. `began` is of the monotonic clock."""

    began: float
    seconds: float
    address: str
    streamed: bool
    failure: str = ""
    text: str = ""
    tokens: int = 0
    first_text_s: float = 0.0

    @property
    def ended(self) -> float:
        return self.began + self.seconds


def short_bodies() -> Iterator[Body]:
    """The same question for four tokens again and again; every third answer is streamed."""
    return itertools.cycle([fixed_length_body(4, stream=True), fixed_length_body(4), fixed_length_body(4)])


@dataclass
class Endpoints:
    """The endpoints of the serve Service: pods whose readiness probe passes, in turn."""

    cluster: Cluster
    ready: dict[str, bool] = field(default_factory=dict)
    turn: Iterator[int] = field(default_factory=itertools.count)
    probed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def probe(self) -> None:
        async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
            while True:
                pods = [node.address for node in list(self.cluster.nodes.values()) if node.serves]
                healthy = await asyncio.gather(*(_is_healthy(client, address) for address in pods))
                async with self.probed:
                    self.ready = dict(zip(pods, healthy, strict=True))
                    self.probed.notify_all()
                await asyncio.sleep(PROBE_PERIOD_S)

    async def next(self) -> str:
        """The next ready pod. Without one a Service refuses connections; these clients then try again."""
        async with self.probed:
            await self.probed.wait_for(lambda: any(self.ready.values()))
        ready = [address for address, healthy in self.ready.items() if healthy]
        return ready[next(self.turn) % len(ready)]


class Clients(threading.Thread):
    """`count` clients at a time, each of which takes the next body when it has its answer.

    Used as a context: at its end every client finishes the question that it asked last.
    """

    def __init__(self, cluster: Cluster, count: int, bodies: Iterator[Body] | None = None) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.count = count
        self.bodies = bodies or short_bodies()
        self.outcomes: list[Outcome] = []
        self.unconnected = 0  # requests that were not sent because no connection could be made; sent again
        self.busy = 0
        self._closed = False

    def __enter__(self) -> Clients:
        self.start()
        if self.count:
            self.wait_for_outcomes(self.count, 30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count, self._closed = 0, True
        self.join(120)
        assert not self.is_alive(), "A client hangs."

    def run(self) -> None:
        self.cluster.enter()
        asyncio.run(self._run())

    def wait_for_outcomes(self, more: int, limit_s: float) -> None:
        """Waits until so many more requests have ended, well or not."""
        wanted = len(self.outcomes) + more
        self.cluster.until(
            lambda: len(self.outcomes) >= wanted,
            lambda: f"{more} more outcomes: {self.summary()}",
            limit_s=limit_s,
        )

    def wait_until_idle(self, limit_s: float = 60.0) -> None:
        """Waits for the last answers after `count` was set to 0."""
        self.cluster.until(lambda: not self.busy, lambda: f"{self.busy} clients end", limit_s=limit_s)

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failure]

    @property
    def texts(self) -> set[str]:
        """The different answers; greedy answers to one question are all equal."""
        return {outcome.text for outcome in self.outcomes if not outcome.failure}

    def summary(self) -> str:
        """One line: how many, how fast, what failed and how often."""
        seconds = sorted(outcome.seconds for outcome in self.outcomes)
        if not seconds:
            return "no answer"
        reasons = dict(Counter(outcome.failure for outcome in self.failures))
        median, longest = seconds[len(seconds) // 2], seconds[-1]
        return (
            f"{len(seconds)} requests, median {median:.2f} s, longest {longest:.2f} s, longest time without an answer "
            f"{self.longest_gap_s():.1f} s, not connected at first {self.unconnected}, failed: {reasons or 'none'}"
        )

    def longest_gap_s(self) -> float:
        """The longest time in which no client got an answer."""
        ends = sorted(outcome.ended for outcome in self.outcomes if not outcome.failure)
        return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=0.0)

    async def _run(self) -> None:
        endpoints = Endpoints(self.cluster)
        probing = asyncio.create_task(endpoints.probe())
        tasks: dict[int, asyncio.Task[None]] = {}
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
            while not (self._closed and all(task.done() for task in tasks.values())):
                for number in range(self.count):
                    if number not in tasks or tasks[number].done():
                        tasks[number] = asyncio.create_task(self._ask_on(client, endpoints, number))
                await asyncio.sleep(0.02)
            await asyncio.gather(*tasks.values())
        probing.cancel()

    async def _ask_on(self, client: httpx.AsyncClient, endpoints: Endpoints, number: int) -> None:
        self.busy += 1
        try:
            while number < self.count:
                address = await endpoints.next()
                outcome = await ask(client, address, next(self.bodies))
                if outcome.failure.startswith("Connect"):  # nothing was sent
                    endpoints.ready[address] = False
                    self.unconnected += 1
                else:
                    self.outcomes.append(outcome)
        finally:
            self.busy -= 1


async def _is_healthy(client: httpx.AsyncClient, address: str) -> bool:
    try:
        response = await client.get(f"http://{address}:{PORT}/-/healthz")
    except httpx.HTTPError:
        return False
    return response.status_code == 200 and "success" in response.text


async def ask(client: httpx.AsyncClient, address: str, body: Body) -> Outcome:
    """One question to one pod; a failure is in the outcome, not raised."""
    began, streamed = time.monotonic(), bool(body.get("stream"))
    try:
        reply = await chat(client, body, f"http://{address}:{PORT}")
    except httpx.HTTPError as error:
        return Outcome(began, time.monotonic() - began, address, streamed, f"{type(error).__name__}: {error}")
    except ChatFailed as error:
        return Outcome(began, time.monotonic() - began, address, streamed, str(error))
    seconds, tokens = time.monotonic() - began, reply.usage["completion_tokens"]
    failure = "" if reply.text else "An empty answer."
    return Outcome(began, seconds, address, streamed, failure, reply.text, tokens, reply.first_text_s)


def ask_at_once(address: str, bodies: Iterable[Body]) -> list[Outcome]:
    """These questions to one pod, all at the same time; to be run inside the cluster's network."""

    async def ask_all() -> list[Outcome]:
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
            return await asyncio.gather(*(ask(client, address, body) for body in bodies))

    return asyncio.run(ask_all())
