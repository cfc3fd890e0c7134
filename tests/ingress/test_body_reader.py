"""Bodies that arrive slowly, in part, too many at once, or with more bytes than the process may hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from serve_app.errors import Overloaded, PayloadTooLarge, RequestTimeout
from serve_app.ingress.body_reader import BodyBudget, BodyLimits

LIMITS = BodyLimits(
    max_bytes=1000, timeout_s=5.0, grace_s=0.2, min_bytes_per_s=1000.0, max_unfinished=3, max_bytes_in_flight=2000
)


class Client:
    """Sends a body in pieces, when the test says so."""

    def __init__(self, declared: int | None = None) -> None:
        headers = [] if declared is None else [(b"content-length", str(declared).encode())]
        self.scope = {"type": "http", "headers": headers}
        self._messages: asyncio.Queue[Message] = asyncio.Queue()

    def send(self, body: bytes, *, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        return await self._messages.get()

    def read(self, budget: BodyBudget) -> asyncio.Task[Any]:
        return asyncio.create_task(budget.read(self.scope, self.receive))


@pytest.fixture
async def unfinished() -> AsyncIterator[Callable[..., Client]]:
    """Clients that send no end; their tasks are cancelled after the test."""
    tasks: list[asyncio.Task[Any]] = []

    async def start(budget: BodyBudget, size: int) -> asyncio.Task[Any]:
        client = Client()
        client.send(b"x" * size)
        tasks.append(client.read(budget))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_body_is_read_whole_and_its_bytes_are_held_until_they_are_released() -> None:
    budget, client = BodyBudget(LIMITS), Client()
    client.send(b"one ")
    client.send(b"two", more=False)
    body, lease = await client.read(budget)
    assert (body, budget.bytes) == (b"one two", 7)
    lease.release()
    lease.release()
    assert budget.bytes == 0


async def test_a_body_that_stops_arriving_is_refused_after_the_grace_time() -> None:
    budget, client = BodyBudget(LIMITS), Client()
    client.send(b"{")
    with pytest.raises(RequestTimeout, match="1 bytes so far"):
        await asyncio.wait_for(client.read(budget), 2)
    assert budget.bytes == 0


async def test_a_body_that_arrives_at_the_least_rate_is_read() -> None:
    budget, client = BodyBudget(LIMITS), Client()
    reading = client.read(budget)
    for _ in range(6):
        client.send(b"x" * 150)
        await asyncio.sleep(0.1)
    client.send(b"", more=False)
    body, _ = await reading
    assert len(body) == 900


@pytest.mark.parametrize("declared", [1001, None])
async def test_a_body_over_the_limit_is_refused_by_its_declared_and_by_its_counted_length(declared: int | None) -> None:
    budget, client = BodyBudget(LIMITS), Client(declared)
    client.send(b"x" * 600)
    client.send(b"x" * 600)
    with pytest.raises(PayloadTooLarge):
        await client.read(budget)
    assert budget.bytes == 0


async def test_when_too_many_bodies_are_unfinished_the_oldest_one_is_refused(unfinished: Any) -> None:
    budget = BodyBudget(LIMITS)
    tasks = [await unfinished(budget, 1) for _ in range(5)]
    for task in tasks[:2]:
        with pytest.raises(RequestTimeout, match="refused the oldest one"):
            await asyncio.wait_for(task, 0.1)
    assert not any(task.done() for task in tasks[2:])
    assert budget.bytes == 3


async def test_when_memory_is_short_the_largest_unfinished_body_is_refused(unfinished: Any) -> None:
    budget = BodyBudget(LIMITS)
    large, small = await unfinished(budget, 990), await unfinished(budget, 500)
    client = Client()
    client.send(b"x" * 600, more=False)
    body, _ = await client.read(budget)
    assert len(body) == 600
    with pytest.raises(Overloaded) as refusal:
        await asyncio.wait_for(large, 0.1)
    assert refusal.value.retry_after_s is not None
    assert not small.done()


async def test_when_complete_bodies_hold_all_memory_a_new_one_is_refused() -> None:
    budget = BodyBudget(LIMITS)
    for size in (990, 990):
        client = Client()
        client.send(b"x" * size, more=False)
        await client.read(budget)
    client = Client()
    client.send(b"x" * 100, more=False)
    with pytest.raises(Overloaded):
        await client.read(budget)
    assert budget.bytes == 1980


async def test_a_client_that_leaves_holds_nothing() -> None:
    budget, client = BodyBudget(LIMITS), Client()
    client.send(b"x" * 10)
    client.leave()
    with pytest.raises(ClientDisconnect):
        await client.read(budget)
    assert budget.bytes == 0
