"""Callers of the service whose number may change at any time, and a watch on replicas and nodes meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.cluster.fake_nodes import Cluster

WATCH_EVERY_S = 0.5


@dataclass(frozen=True)
class Asked:
    """One request: when, how long, and what went wrong, if anything; seconds."""

    at_s: float
    first_token_s: float
    whole_s: float
    streamed: bool
    failure: str = ""


@dataclass(frozen=True)
class Seen:
    """The cluster at one moment. Replicas: running, and wanted by the policy; nodes: of each group."""

    at_s: float
    callers: int
    replicas: int
    wanted: int
    nodes: dict[str, int]
    stray: list[str]  # replicas of the CPU stages on nodes of another group than theirs


@dataclass
class Load:
    """Callers that ask again as soon as they have their answer. Nobody leaves before it."""

    client: httpx.AsyncClient
    bodies: Iterator[dict[str, Any]]
    started: float = field(default_factory=time.monotonic)
    asked: list[Asked] = field(default_factory=list)
    callers: int = 0
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    def now_s(self) -> float:
        return time.monotonic() - self.started

    def set(self, callers: int) -> None:
        """From now on so many; those that are too many leave when they are answered."""
        self.callers = callers
        for number in range(callers):
            if number not in self._tasks or self._tasks[number].done():
                self._tasks[number] = asyncio.create_task(self._call(number))

    async def all_answered(self) -> None:
        """Waits for the callers who leave; to be used after `set(0)`."""
        await asyncio.gather(*self._tasks.values())

    async def _call(self, number: int) -> None:
        while number < self.callers:
            await self.ask(next(self.bodies))

    async def ask(self, body: dict[str, Any]) -> Asked:
        """One request; a failure is remembered, not raised."""
        began, first, failure = self.now_s(), 0.0, ""
        try:
            if body.get("stream"):
                first, failure = await self._stream(body)
            else:
                response = await self.client.post("/v1/chat/completions", json=body)
                if response.status_code != 200:
                    failure = f"{response.status_code} {response.text[:300]}"
                elif not response.json()["choices"][0]["message"]["content"]:
                    failure = "an empty answer"
        except httpx.HTTPError as error:
            failure = repr(error)
        ended = self.now_s()
        self.asked.append(Asked(began, (first or ended) - began, ended - began, bool(body.get("stream")), failure))
        return self.asked[-1]

    async def _stream(self, body: dict[str, Any]) -> tuple[float, str]:
        """When the first text came, and what was wrong with the stream."""
        first, last = 0.0, ""
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                return 0.0, f"{response.status_code} {(await response.aread())[:300]!r}"
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                last = line.removeprefix("data: ")
                if last == "[DONE]":
                    break
                event = json.loads(last)
                if "error" in event:
                    return first, f"in the stream: {event['error']}"
                text = event["choices"][0]["delta"].get("content") if event.get("choices") else ""
                if text and not first:
                    first = self.now_s()
        if last != "[DONE]":
            return first, "the stream broke off"
        return first, "" if first else "an empty answer"


@dataclass
class Watch:
    """Looks at the cluster every half second while it is open."""

    cluster: Cluster
    load: Load
    seen: list[Seen] = field(default_factory=list)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            task.cancel()

    async def _look_on(self) -> None:
        while True:
            with suppress(httpx.HTTPError, KeyError):  # the dashboard is busy; the next look is soon
                self.seen.append(await asyncio.to_thread(self._look))
            await asyncio.sleep(WATCH_EVERY_S)

    def _look(self) -> Seen:
        deployments, nodes = self.cluster.application()["deployments"], self.cluster.nodes()
        running = [each for each in deployments["engine"]["replicas"] if each["state"] == "RUNNING"]
        stray = [
            f"{stage} on {nodes[replica['node_id']]}"
            for stage in ("ingress", "preprocess")
            for replica in deployments[stage]["replicas"]
            if nodes.get(replica["node_id"], "cpu") != "cpu"
        ]
        groups = list(nodes.values())
        return Seen(
            self.load.now_s(),
            self.load.callers,
            len(running),
            deployments["engine"]["target_num_replicas"],
            {group: groups.count(group) for group in sorted(set(groups))},
            stray,
        )

    async def until(self, replicas: int, gpu_nodes: int | None = None, limit_s: float = 90.0) -> None:
        """Waits for so many running replicas (and GPU nodes)."""
        began = self.load.now_s()
        while self.load.now_s() - began < limit_s:
            if self.seen:
                last = self.seen[-1]
                if last.replicas == replicas and gpu_nodes in (None, last.nodes.get("gpu", 0)):
                    return
            await asyncio.sleep(WATCH_EVERY_S / 2)
        raise AssertionError(f"not {replicas} replicas and {gpu_nodes} GPU nodes within {limit_s:g} s: {self.seen[-1]}")
