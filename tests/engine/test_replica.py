"""A whole replica without Ray: loaded, warmed up, streaming, cancelled, closed."""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.contracts import (
    Constraint,
    Delta,
    Event,
    Finished,
    Prompt,
    Sampling,
    Started,
    TokenLogprob,
    ToolCallDelta,
    UnsentPixels,
    Usage,
)
from serve_app.engine.replica import EngineReplica, EventBuffer
from serve_app.errors import EngineFailed, InvalidRequest, ServiceError
from serve_app.metrics import SilentMeter
from serve_app.replies import EngineEvent, PixelsNeeded
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


async def events_of(replica: EngineReplica, one: Prompt) -> list[EngineEvent]:
    return [event async for together in replica.generate(one) for event in together]


async def test_events_come_in_order_and_no_delta_is_empty(replica: EngineReplica) -> None:
    started, *deltas, finished = await events_of(replica, question("a"))
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
    assert not replica.loop._active


async def test_constrained_and_free_answers_are_given_side_by_side(replica: EngineReplica) -> None:
    async def ask(index: int) -> str:
        held = Constraint("regex", "[a-z]{3}[0-9]{2}") if index % 2 else None
        events = await events_of(replica, replace(question(f"c{index}"), constraint=held))
        return "".join([event.text for event in events if isinstance(event, Delta)])

    texts = await asyncio.gather(*(ask(index) for index in range(8)))
    assert all(re.fullmatch("[a-z]{3}[0-9]{2}", text) for text in texts[1::2])
    assert not any(re.fullmatch("[a-z]{3}[0-9]{2}", text) for text in texts[::2])


async def test_a_broken_constraint_is_refused_before_anything_is_sent(replica: EngineReplica) -> None:
    broken = replace(question("broken"), constraint=Constraint("regex", "[", param="regex"))
    with pytest.raises(InvalidRequest, match="unclosed") as raised:
        await anext(replica.generate(broken))
    assert raised.value.param == "regex"
    assert replica.loop.slots_used() == 0


async def test_nobody_waits_for_a_constraint_that_takes_long_to_prepare(replica: EngineReplica) -> None:
    patterns = ", ".join(f'{{"type": "string", "pattern": ".*{index}.*"}}' for index in range(40))
    slow = replace(question("slow"), constraint=Constraint("json_schema", f'{{"allOf": [{patterns}]}}'))
    refused = asyncio.create_task(anext(replica.generate(slow)))
    await asyncio.sleep(0.05)
    assert await events_of(replica, question("quick"))
    assert not refused.done()
    with pytest.raises(InvalidRequest, match="too long"):
        await refused


async def test_deltas_that_wait_for_a_slow_reader_are_joined_by_channel_and_call_in_order() -> None:
    one, two = TokenLogprob(1, b"a", -1.0), TokenLogprob(2, b"b", -2.0)
    finished = Finished("tool_calls", Usage(1, 9))
    waiting: list[Event | ServiceError] = [
        Delta("w", 1, "reasoning"),
        Delta("hy", 2, "reasoning"),
        Delta("a", 1, "text", (one,)),
        Delta("b", 1, "text", (two,)),
        ToolCallDelta(0, "f", "", 1),
        ToolCallDelta(0, None, "{}", 2),
        ToolCallDelta(1, "f", "{}", 1),
        finished,
    ]
    buffer = EventBuffer()
    for event in waiting:
        buffer.put(event)
    assert await buffer.take() == [
        Delta("why", 3, "reasoning"),
        Delta("ab", 2, "text", (one, two)),
        ToolCallDelta(0, "f", "{}", 3),
        ToolCallDelta(1, "f", "{}", 1),
        finished,
    ]


async def test_events_that_are_there_at_the_same_time_come_together(replica: EngineReplica) -> None:
    """Each message to the ingress takes time; a reader that comes late gets one with all events."""
    one = question("all at once")
    await replica.begin(one)
    await until_idle(lambda: not replica.loop._inbox and not replica.loop._active)
    await asyncio.sleep(0.1)  # the last events are delivered
    (together,) = [each async for each in replica.generate(one)]
    assert isinstance(together[0], Started)
    assert isinstance(together[-1], Finished)


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
    await until_idle(lambda: not replica.loop.slots_used())


def test_the_card_says_what_is_served(replica: EngineReplica) -> None:
    card = replica.card
    assert (card.model_type, card.context_tokens, card.quantization, card.dtype, card.device) == (
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
        one.loop.submit(one.loop.admission.admit(question("late"), lambda event: None))


async def test_an_answer_that_has_begun_is_read_with_the_prompt_without_pixels(replica: EngineReplica) -> None:
    full = question("an answer that has begun")
    light = replace(full, pictures=tuple(replace(one, pixels=UnsentPixels(one.pixels.shape)) for one in full.pictures))
    assert await events_of(replica, light) == [PixelsNeeded((full.pictures[0].digest,))]
    await replica.begin(full)
    texts = [await events_of(replica, one) for one in (light, full)]
    assert isinstance(texts[0][0], Started)
    assert isinstance(texts[0][-1], Finished)
    said = ["".join(event.text for event in text if isinstance(event, Delta)) for text in texts]
    assert said[0] == said[1] != ""


async def test_an_answer_that_has_begun_is_not_begun_again_by_the_prompt_with_pixels(replica: EngineReplica) -> None:
    full = question("the same prompt again")
    await replica.begin(full)
    assert isinstance((await events_of(replica, full))[-1], Finished)
    assert len(replica.unread) == 0


async def test_an_answer_that_nobody_reads_frees_its_slot(replica: EngineReplica) -> None:
    one = question("nobody reads it", tokens=500)
    replica.unread._kept_s, kept_s = 0.1, replica.unread._kept_s
    try:
        await replica.begin(one)
        assert len(replica.unread) == 1
        await wait_until_idle(replica)
    finally:
        replica.unread._kept_s = kept_s
    assert len(replica.unread) == 0


async def test_a_prompt_that_is_refused_does_not_begin(replica: EngineReplica) -> None:
    with pytest.raises(InvalidRequest, match="unclosed"):
        await replica.begin(replace(question("refused"), constraint=Constraint("regex", "[", param="regex")))
    assert len(replica.unread) == 0


async def wait_until_idle(replica: EngineReplica) -> None:
    await until_idle(lambda: not replica.loop.slots_used() and not len(replica.unread))


async def until_idle(idle: Callable[[], bool]) -> None:
    for _ in range(500):
        if idle():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("A slot is still in use.")
