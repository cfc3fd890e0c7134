"""The bots' state in Redis, where Redis does not respond for a while."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from serve_app.bots.conversation.state import MemoryState, RedisState, StateUnavailable
from tests.bots.bench import bench, question_of
from tests.fakes import FakeAnswer
from tests.ingress.client import soon
from tests.redis_server import RedisServer


def state_in(server: RedisServer) -> RedisState:
    """The state of a new process."""
    clock = asyncio.get_running_loop().time
    return RedisState(MemoryState(clock), Redis.from_url(server.url, retry=Retry(NoBackoff(), 0)), clock, pause_s=0.1)


async def test_what_redis_missed_is_written_when_it_responds_again(redis: RedisServer):
    state = state_in(redis)
    for member in ("1", "2"):
        await state.open(member)
        await state.set(f"stream:{member}", b"growing", 60)
    await state.set("chat", b"a topic", 60)
    redis.freeze()
    await state.set("stream:1", b"finished", 60)
    await state.close("1")
    await state.delete("chat")
    redis.thaw()
    for _ in range(200):
        other = state_in(redis)
        found = [await other.unfinished(), await other.get("stream:1"), await other.get("chat")]
        if found == [["2"], b"finished", None]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def test_unfinished_streams_are_not_reported_as_none_where_redis_does_not_respond(redis: RedisServer):
    redis.kill()
    with pytest.raises(StateUnavailable):
        await state_in(redis).unfinished()


async def test_answers_of_an_earlier_process_are_continued_when_redis_responds_again(
    tmp_path: Path, redis: RedisServer
):
    held, answer = FakeAnswer("late", hold_after=0), FakeAnswer("Two")
    async with bench(tmp_path, held, state=state_in(redis)) as one:
        platform = one.platform
        left = await platform.send(platform.text("ann", "How many?"))
        await held.held.wait()
    redis.freeze()
    async with bench(tmp_path, answer, state=state_in(redis), platform=platform) as one:
        assert await one.ask(platform.text("bob", "And now?")) == "Two"
        redis.thaw()
        await soon(lambda: len(answer.requests) == 2)
        assert await platform.follow(await platform.poll(left["id"]), interval_s=0.01) == "Two"
    assert [question_of(request) for request in answer.requests] == ["And now?", "How many?"]
