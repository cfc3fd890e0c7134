"""A cache over a fake engine whose answer names everything that the model was given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from serve_app.cache.answer_cache import AnswerCache
from serve_app.cache.store import Store
from serve_app.contracts import ChatRequest, Event, Events, Message, Prompt, Sampling, TextPart
from serve_app.settings_cache import CacheSettings
from tests.fakes import PREPARED_MS, FakeAnswer, FakeMeter


def prompt_of(request: ChatRequest) -> Prompt:
    """A prompt as preprocess makes it, of a request without pictures."""
    words = repr(request.messages).encode()
    return Prompt(
        request.id,
        np.frombuffer(words, np.uint8).astype(np.int32),
        (),
        replace(request.sampling, max_tokens=request.sampling.max_tokens or 16),
        request.deadline_s,
        PREPARED_MS,
        tenant=request.caller.tenant,
    )


@dataclass
class Cached:
    """A cache with its engine; counts what was prepared and generated."""

    store: Store | None = None
    settings: CacheSettings = field(default_factory=CacheSettings)
    model: str = "fp_1"
    answer: Callable[[ChatRequest], Events] = field(default_factory=lambda: FakeAnswer("Two ", "cats"))
    meter: FakeMeter = field(default_factory=FakeMeter)
    prepared: int = 0
    generated: int = 0

    def __post_init__(self) -> None:
        self.cache = AnswerCache(self.settings, self.model, self.meter, self.store)

    def events(self, request: ChatRequest) -> Events:
        async def prepare() -> Prompt:
            self.prepared += 1
            return prompt_of(request)

        def generate(prompt: Prompt) -> Events:
            self.generated += 1
            return self.answer(request)

        return self.cache.answer(request, prepare, generate)

    async def ask(self, request: ChatRequest) -> list[Event]:
        async with aclosing(self.events(request)) as events:
            received = [event async for event in events]
        await asyncio.gather(*self.cache._indexing)
        return received

    async def settled(self) -> None:
        """Waits until the answers in progress are kept: until then, identical questions join them."""
        while self.cache._flights:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def lookups(self) -> dict[str, int]:
        name = "glm_answer_cache_lookups_total"
        return {result: count for (metric, result), count in self.meter.counts.items() if metric == name}


@pytest.fixture
def question() -> Callable[..., ChatRequest]:
    def make(text: str = "Which number?", id: str = "one", **fields: Any) -> ChatRequest:
        return ChatRequest(
            id, (Message("user", (TextPart(text),)),), **{"sampling": Sampling(temperature=0.0), **fields}
        )

    return make
