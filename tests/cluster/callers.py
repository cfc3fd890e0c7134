"""Callers of a cluster who come through a door that does what a Kubernetes Service does."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx
from PIL import Image

from tests.cluster.nodes import PORT, Cluster
from tests.cluster.questions import EVALUATION

PROBE_PERIOD_S = 5.0  # KubeRay's readiness probe of a worker: every 5 s, one failure takes it out of the Service
PROBE_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 5.0
PATIENCE_S = 60.0  # longer than this without a byte is a hang


@dataclass(frozen=True)
class Outcome:
    """How one request went; `failure` is None for an answer that came whole."""

    began: float  # monotonic seconds
    seconds: float
    address: str
    streamed: bool
    failure: str | None
    text: str = ""
    tokens: int = 0


@dataclass
class Door:
    """The endpoints of the serve Service: pods whose readiness probe passes, one after the other."""

    cluster: Cluster
    ready: dict[str, bool] = field(default_factory=dict)
    turn: itertools.count[int] = field(default_factory=itertools.count)
    probed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def watch(self) -> None:
        async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
            while True:
                pods = [node.address for node in list(self.cluster.nodes.values()) if node.serves]
                found = await asyncio.gather(*(_healthy(client, address) for address in pods))
                async with self.probed:
                    self.ready = dict(zip(pods, found, strict=True))
                    self.probed.notify_all()
                await asyncio.sleep(PROBE_PERIOD_S)

    async def address(self) -> str:
        """The next ready pod. While there is none a Service refuses connections; these callers then try again."""
        async with self.probed:
            await self.probed.wait_for(lambda: any(self.ready.values()))
        ready = [address for address, healthy in self.ready.items() if healthy]
        return ready[next(self.turn) % len(ready)]


class Callers(threading.Thread):
    """Callers who ask one question after the other, until `stop`; every third of them takes streams."""

    def __init__(self, cluster: Cluster, *, count: int = 4, body: dict[str, Any] | None = None) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.count = count
        self.body = body or short_question()
        self.door = Door(cluster)
        self.outcomes: list[Outcome] = []
        self.unconnected = 0
        self._stopping = threading.Event()

    def __enter__(self) -> Callers:
        self.start()
        self.wait_for(self.count, 30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Lets every caller finish the question that it asked last."""
        self._stopping.set()
        self.join(2 * PATIENCE_S)
        assert not self.is_alive(), "a caller hangs"

    def run(self) -> None:
        self.cluster.enter()
        asyncio.run(self._ask_all())

    def wait_for(self, more: int, limit_s: float) -> None:
        """Until so many more have been answered, well or not."""
        wanted = len(self.outcomes) + more
        limit = time.monotonic() + limit_s
        while len(self.outcomes) < wanted:
            assert time.monotonic() < limit, f"{len(self.outcomes)} of {wanted} in {limit_s:g} s: {self.told()}"
            time.sleep(0.1)

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failure]

    @property
    def texts(self) -> set[str]:
        """What was answered; greedy answers to one question are all alike."""
        return {outcome.text for outcome in self.outcomes if not outcome.failure}

    def told(self) -> str:
        """One line: how many, how fast, what failed and how often."""
        seconds = sorted(outcome.seconds for outcome in self.outcomes)
        if not seconds:
            return "no answer"
        reasons = dict(Counter(outcome.failure for outcome in self.failures))
        median, longest = seconds[len(seconds) // 2], seconds[-1]
        return (
            f"{len(seconds)} requests, median {median:.2f} s, longest {longest:.2f} s, longest time without an answer "
            f"{self.gap_s():.1f} s, not connected at first {self.unconnected}, failed: {reasons or 'none'}"
        )

    def gap_s(self) -> float:
        """The longest time in which nobody got an answer."""
        ends = sorted(outcome.began + outcome.seconds for outcome in self.outcomes if not outcome.failure)
        return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=0.0)

    async def _ask_all(self) -> None:
        watching = asyncio.create_task(self.door.watch())
        patience = httpx.Timeout(PATIENCE_S, connect=CONNECT_TIMEOUT_S)
        async with httpx.AsyncClient(timeout=patience, trust_env=False) as client:
            async with asyncio.TaskGroup() as group:
                for number in range(self.count):
                    group.create_task(self._ask(client, stream=number % 3 == 0))
            watching.cancel()

    async def _ask(self, client: httpx.AsyncClient, *, stream: bool) -> None:
        while not self._stopping.is_set():
            address = await self.door.address()
            outcome = await ask(client, address, self.body, stream=stream)
            if outcome.failure and outcome.failure.startswith("Connect"):  # nothing was sent
                self.door.ready[address] = False
                self.unconnected += 1
            else:
                self.outcomes.append(outcome)


async def _healthy(client: httpx.AsyncClient, address: str) -> bool:
    try:
        response = await client.get(f"http://{address}:{PORT}/-/healthz")
    except httpx.HTTPError:
        return False
    return response.status_code == 200 and "success" in response.text


async def ask(client: httpx.AsyncClient, address: str, body: dict[str, Any], *, stream: bool) -> Outcome:
    """One question to one pod, with all that can go wrong told in words."""
    began = time.monotonic()
    url = f"http://{address}:{PORT}/v1/chat/completions"
    text, tokens, failure = "", 0, None
    try:
        if stream:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            async with client.stream("POST", url, json={**body, **options}) as response:
                lines = [line async for line in response.aiter_lines()]
            text, tokens, failure = _streamed(response.status_code, lines)
        else:
            response = await client.post(url, json=body)
            text, tokens, failure = _whole(response.status_code, response.text)
    except httpx.HTTPError as error:
        failure = f"{type(error).__name__}: {error}"
    return Outcome(began, time.monotonic() - began, address, stream, failure, text, tokens)


def _whole(status: int, body: str) -> tuple[str, int, str | None]:
    if status != 200:
        return "", 0, f"{status} {body[:300]}"
    reply = json.loads(body)
    return reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"], None


def _streamed(status: int, lines: list[str]) -> tuple[str, int, str | None]:
    if status != 200:
        return "", 0, f"{status} {''.join(lines)[:300]}"
    said = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    chunks = [json.loads(each) for each in said if each != "[DONE]"]
    if told := [chunk["error"] for chunk in chunks if "error" in chunk]:
        return "", 0, f"told in the stream: {json.dumps(told[0])}"
    if not said or said[-1] != "[DONE]":
        return "", 0, "a stream broke off"
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    return text, chunks[-1]["usage"]["completion_tokens"], None


def picture_question(*, side: int = 112, **fields: Any) -> dict[str, Any]:
    """A greedy question about a waybill, its picture made this small."""
    picture = Image.open(EVALUATION / "labels-002.jpg").resize((side, side))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def short_question() -> dict[str, Any]:
    """A small picture and four tokens: a thousand of these a minute fit on two cores."""
    return picture_question(max_tokens=4, ignore_eos=True)


def long_question(tokens: int) -> dict[str, Any]:
    """An answer of exactly so many tokens; a hundred a second, if nobody else asks."""
    return picture_question(max_tokens=tokens, ignore_eos=True)
