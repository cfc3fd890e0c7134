"""Ray Serve's router with our rule: whole routing tasks over replicas that are objects of this process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.affinity import home
from serve_app.engine.request_router import PictureRouter, request_routing
from tests.ingress.client import soon

ENGINE = DeploymentID("engine", "glm")
NOTHING: Any = None


@dataclass
class Replica:
    """A running replica with some requests in progress."""

    name: str
    requests: int = 0
    max_ongoing_requests: int = 1000
    asked: int = 0
    replica_id: ReplicaID = field(init=False)

    def __post_init__(self) -> None:
        self.replica_id = ReplicaID(self.name, ENGINE)

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.asked += 1
        return self.requests


def router_over(*replicas: Replica, slots: int = 8) -> PictureRouter:
    router = PictureRouter(ENGINE, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
    router.initialize_state(**request_routing(slots).request_router_kwargs)
    router.update_replicas(list(replicas))
    return router


def question(digest: str | None, request: str = "request") -> PendingRequest:
    """A call of `generate` for a prompt with that picture."""
    pictures = () if digest is None else (Picture(np.zeros((28, 28, 3), np.uint8), digest, 1, (28, 28)),)
    prompt = Prompt("id", np.arange(4, dtype=np.int32), pictures, Sampling(), 30.0)
    return PendingRequest([prompt], {}, RequestMetadata(request, request, call_method="generate"))


async def route(router: PictureRouter, asked: PendingRequest) -> str:
    replica = await asyncio.wait_for(router._choose_replica_for_request(asked), 5)
    router.on_send_request(replica.replica_id)
    router.on_request_routed(asked, replica.replica_id, NOTHING)
    return str(replica.replica_id.unique_id)


def run(test: Any) -> None:
    asyncio.run(test())


def test_follow_ups_reach_the_replica_of_the_first_question():
    async def test() -> None:
        router = router_over(Replica("one"), Replica("two"), slots=64)
        for number in range(8):
            digest = f"{number:064x}"
            assert {await route(router, question(digest)) for _ in range(4)} == {
                home(f"default\0{digest}", ["one", "two"])
            }

    run(test)


def test_prompts_without_pictures_go_to_the_less_busy_replica():
    async def test() -> None:
        router = router_over(Replica("one", requests=3), Replica("two"))
        await asyncio.sleep(0.01)  # it asks new replicas for their numbers
        assert [await route(router, question(None)) for _ in range(3)] == ["two"] * 3

    run(test)


def test_a_full_replica_is_passed_over():
    async def test() -> None:
        replicas = Replica("one", max_ongoing_requests=0), Replica("two")
        router = router_over(*replicas, slots=512)
        digests = [f"{number:064x}" for number in range(4)]
        assert {await route(router, question(digest)) for digest in digests} == {"two"}

    run(test)


def test_conversations_of_a_replica_that_died_move_to_another_one():
    async def test() -> None:
        router = router_over(Replica("one"), Replica("two"), slots=64)
        digest = "5" * 64
        first = await route(router, question(digest))
        router.on_replica_actor_died(ReplicaID(first, ENGINE))
        second = await route(router, question(digest))
        assert {first, second} == {"one", "two"}

    run(test)


@pytest.mark.parametrize("replicas", [1, 2])
def test_all_choices_of_one_request_are_routed(replicas: int):
    """Serve looks a request up by an id that all calls of one HTTP request share; the second choice then hung."""

    async def test() -> None:
        router = router_over(*[Replica(str(number)) for number in range(replicas)])
        choices = [question("7" * 64, request="one HTTP request") for _ in range(4)]
        assert len(await asyncio.gather(*(route(router, choice) for choice in choices))) == 4
        assert router.num_pending_requests == 0 or all(choice.future.done() for choice in choices)

    run(test)


def test_a_cancelled_request_does_not_take_the_replica_of_another_one():
    async def test() -> None:
        router = router_over()
        waiting = [asyncio.create_task(route(router, question(digit * 64, request=digit))) for digit in "12"]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        router.update_replicas([Replica("one")])
        assert await waiting[1] == "one"

    run(test)


def test_a_single_replica_is_not_asked_for_its_load_by_our_rule():
    async def test() -> None:
        only = Replica("one")
        router = router_over(only)
        await asyncio.sleep(0.01)
        for number in range(5):
            await route(router, question(f"{number:064x}"))
        assert only.asked == 1  # by Serve, once, when it was new

    run(test)


def test_replicas_are_asked_for_their_loads_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("serve_app.engine.request_router.time", clock)

    async def test() -> None:
        replicas = Replica("one"), Replica("two")
        router = router_over(*replicas)
        await soon(lambda: [replica.asked for replica in replicas] == [1, 1])  # by Serve, as they are new
        for expected in (2, 3):
            for number in range(20):
                await route(router, question(f"{number:064x}"))
            clock.now += 0.24
            await route(router, question("a" * 64))
            await soon(lambda: all(replica.asked >= expected for replica in replicas))  # noqa: B023
            clock.now += 0.02
        await asyncio.sleep(0.05)
        assert [replica.asked for replica in replicas] == [3, 3]

    run(test)
