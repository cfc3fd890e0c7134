"""Fakes of the stages: small working objects that record their calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

from serve_app.contracts import (
    Boxed,
    ChatRequest,
    Delta,
    Event,
    Events,
    Finished,
    FinishReason,
    PictureSeen,
    Started,
    ToolCallDelta,
    Usage,
)
from serve_app.metrics import Metric
from serve_app.replies import ModelCard, Tokenized

PREPARED_MS = {"fetch": 0.0, "decode": 2.0, "resize": 1.5, "tokenize": 0.5, "queue": 0.25}
ALL_MS = {**PREPARED_MS, "encode": 3.0, "prefill": 4.0, "decode_steps": 8.0}
PROMPT_TOKENS, IMAGE_TOKENS = 40, 30
CARD = ModelCard(
    name="glm-vision-demo",
    model_type="glm4v",
    context_tokens=2048,
    quantization="none",
    dtype="float32",
    device="cpu",
    parameters=12_345_678,
    abilities=("chat", "vision", "thinking", "tools"),
)


class FakeAnswer:
    """An `Answer` that returns the given deltas; a text is a delta of one token.

    `error` is raised after `fail_after` events: 0 is before the first, 1 after Started. After `hold_after` events it
    waits until `release` is set; `held` is set while it waits. With `break_off` there is no last event. `pause_s`
    passes before each event.
    """

    def __init__(
        self,
        *deltas_or_texts: str | Delta | ToolCallDelta,
        error: BaseException | None = None,
        fail_after: int = 0,
        hold_after: int | None = None,
        reason: FinishReason = "stop",
        break_off: bool = False,
        pause_s: float = 0.0,
        pictures: tuple[PictureSeen, ...] = (),
        boxed: tuple[Boxed, ...] = (),
        stop: str | None = None,
        device_ms: float = 0.0,
    ) -> None:
        deltas = [Delta(each, 1) if isinstance(each, str) else each for each in deltas_or_texts]
        tokens = sum(delta.tokens for delta in deltas)
        thought = sum(delta.tokens for delta in deltas if isinstance(delta, Delta) and delta.channel == "reasoning")
        self._events: list[Event] = [Started(PROMPT_TOKENS, IMAGE_TOKENS, PREPARED_MS, pictures), *deltas]
        if not break_off:
            usage = Usage(PROMPT_TOKENS, tokens, IMAGE_TOKENS, thought)
            self._events.append(Finished(reason, usage, ALL_MS, boxed, stop, device_ms=device_ms))
        self._error = error
        self._fail_after = fail_after
        self._hold_after = hold_after
        self._pause_s = pause_s
        self.requests: list[ChatRequest] = []
        self.running = 0
        self.closed_early = 0
        self.held = asyncio.Event()
        self.release = asyncio.Event()

    def __call__(self, request: ChatRequest) -> Events:
        self.requests.append(request)
        return self._answer()

    async def _answer(self) -> AsyncGenerator[Event, None]:
        self.running += 1
        try:
            for place, event in enumerate([*self._events, None]):
                if self._error is not None and place == self._fail_after:
                    raise self._error
                if place == self._hold_after:
                    self.held.set()
                    await self.release.wait()
                if event is not None:
                    if self._pause_s:
                        for _ in range(4):  # after a stall of this process, other timers that are due come first
                            await asyncio.sleep(self._pause_s / 4)
                    yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.closed_early += 1
            raise
        finally:
            self.running -= 1


class FakeAnswers:
    """An `Answer` whose n-th request gets the n-th of the answers."""

    def __init__(self, *answers: FakeAnswer) -> None:
        self.answers = answers
        self.requests: list[ChatRequest] = []

    def __call__(self, request: ChatRequest) -> Events:
        self.requests.append(request)
        return self.answers[len(self.requests) - 1](request)


class FakeTokenize:
    """A `Tokenize` that returns ids or fails, and records its requests."""

    def __init__(self, *token_ids: int, image_tokens: int = 0, error: Exception | None = None) -> None:
        self._tokenized = Tokenized(token_ids, image_tokens, CARD.context_tokens)
        self._error = error
        self.requests: list[ChatRequest] = []

    async def __call__(self, request: ChatRequest) -> Tokenized:
        self.requests.append(request)
        if self._error is not None:
            raise self._error
        return self._tokenized


class FakeDescribe:
    """A replica's description of its model; fails with `error`, or never returns if `silent`."""

    def __init__(self, card: ModelCard = CARD, *, error: Exception | None = None, silent: bool = False) -> None:
        self._card = card
        self._error = error
        self._silent = silent

    async def __call__(self) -> ModelCard:
        if self._silent:
            await asyncio.Event().wait()
        if self._error is not None:
            raise self._error
        return self._card


class FakeMeter:
    """A meter that keeps its measurements; it refuses tags that the metric does not declare, as Ray does."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.observed: dict[tuple[str, ...], list[float]] = {}
        self.values: dict[tuple[str, ...], float] = {}

    def count(self, metric: Metric, value: float = 1.0, **tags: str) -> None:
        self.counts[_key(metric, tags)] += value  # type: ignore[assignment]

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        self.observed.setdefault(_key(metric, tags), []).append(value)

    def set(self, metric: Metric, value: float, **tags: str) -> None:
        self.values[_key(metric, tags)] = value


def _key(metric: Metric, tags: dict[str, str]) -> tuple[str, ...]:
    assert set(tags) == set(metric.tags), f"{metric.name} has the tags {metric.tags}"
    return (metric.name, *(tags[name] for name in metric.tags))
