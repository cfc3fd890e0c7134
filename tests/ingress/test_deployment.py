"""The ingress deployment: what it builds from the settings."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.cache.answer_cache import answer_cache
from serve_app.contracts import ChatRequest, Events, Message, Prompt, Sampling, TextPart
from serve_app.settings import Settings
from tests.cache.conftest import prompt_of
from tests.fakes import FakeAnswer, FakeMeter
from tests.redis_server import RedisServer


async def generated_by_two_replicas(settings: Settings) -> int:
    """How often the model runs when each of two replicas gets the same question."""
    model = FakeAnswer("Two ", "cats")
    for name in ("one", "two"):
        cache = answer_cache(settings, FakeMeter())
        assert cache is not None
        message = Message("user", (TextPart("Which number?"),))
        request = ChatRequest(name, (message,), Sampling(temperature=0.0), deadline_s=9.0)

        async def prepare(request: ChatRequest = request) -> Prompt:
            return prompt_of(request)

        def generate(prompt: Prompt, request: ChatRequest = request) -> Events:
            return model(request)

        async for _ in cache.answer(request, prepare, generate):
            pass
        while cache._flights:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await cache.close()
    return len(model.requests)


@pytest.mark.parametrize(("backend", "generated"), [("redis", 1), ("memory", 2)])
async def test_replicas_share_answers_if_the_backend_is_redis(redis: RedisServer, backend: str, generated: int) -> None:
    cache = {"backend": backend, "redis_url": redis.url, "redis_timeout_ms": 1000}
    assert await generated_by_two_replicas(Settings.model_validate({"cache": cache})) == generated


def test_there_is_no_cache_if_the_backend_is_off() -> None:
    assert answer_cache(Settings.model_validate({"cache": {"backend": "off"}}), FakeMeter()) is None
