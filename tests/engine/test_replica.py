"""A whole replica without Ray: loaded, warmed up, streaming, cancelled, closed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve_app.contracts import Delta, Finished, Prompt, Sampling, Started
from serve_app.engine.replica import EngineReplica
from serve_app.errors import EngineFailed
from serve_app.metrics import SilentMeter
from serve_app.settings import EngineSettings, MetricsSettings, ModelSettings
from tests.engine.conftest import prompt


@pytest.fixture(scope="module")
def replica(tiny_model: Path) -> Iterator[EngineReplica]:
    one = EngineReplica(
        ModelSettings(path=str(tiny_model), device="cpu"),
        EngineSettings(max_slots=4, threads=1),
        MetricsSettings(),
        SilentMeter(),
    )
    yield one
    one.close()


def question(name: str, tokens: int = 12) -> Prompt:
    rng = np.random.default_rng(len(name))
    return prompt(name, rng, Sampling(max_tokens=tokens, temperature=1.0, seed=1), pictures=1, text=6)


async def test_events_come_in_order_and_no_delta_is_empty(replica: EngineReplica) -> None:
    started, *deltas, finished = [event async for event in replica.generate(question("a"))]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert all(isinstance(delta, Delta) and delta.text for delta in deltas)
    assert sum(delta.tokens for delta in deltas if isinstance(delta, Delta)) <= finished.usage.completion_tokens == 12
    assert {"queue", "encode", "prefill", "decode_steps"} <= finished.stages_ms.keys()


async def test_many_requests_with_random_cancels_leave_no_slot_behind(replica: EngineReplica) -> None:
    rng = np.random.default_rng(5)

    async def ask(index: int) -> None:
        events = replica.generate(question(f"r{index}", tokens=int(rng.integers(1, 30))))
        leave_after = int(rng.integers(0, 12))
        async for _ in events:
            if (leave_after := leave_after - 1) < 0:
                break
        await events.aclose()

    await asyncio.gather(*(ask(index) for index in range(60)))
    for _ in range(200):
        if replica.loop.slots_used() == 0:
            break
        await asyncio.sleep(0.01)
    assert replica.loop.slots_used() == 0
    assert not replica.loop._known


async def test_a_cancelled_task_frees_its_slot(replica: EngineReplica) -> None:
    streaming = asyncio.Event()

    async def ask() -> None:
        async for _ in replica.generate(question("long", tokens=900)):
            streaming.set()

    task = asyncio.create_task(ask())
    await streaming.wait()
    assert replica.loop.slots_used() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)
    assert replica.loop.slots_used() == 0


def test_the_card_says_what_is_served(replica: EngineReplica) -> None:
    card = replica.card
    assert (card.family, card.context_tokens, card.quantization, card.dtype, card.device) == (
        "glm4v",
        1024,
        "none",
        "float32",
        "cpu",
    )


def test_a_closed_replica_is_unhealthy_and_refuses(tiny_model: Path) -> None:
    one = EngineReplica(
        ModelSettings(path=str(tiny_model), device="cpu"), EngineSettings(max_slots=1), MetricsSettings(), SilentMeter()
    )
    one.check()
    one.close()
    with pytest.raises(EngineFailed):
        one.check()
    with pytest.raises(EngineFailed, match="has stopped"):
        one.loop.submit(question("late"), lambda event: None)
