"""One request through both stages, over fake deployments: deadline, cancellation, Ray's errors as ours."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from serve_app.contracts import (
    ChatRequest,
    Delta,
    Event,
    Events,
    Finished,
    ImagePart,
    Message,
    Prompt,
    Sampling,
    Started,
    TextPart,
)
from serve_app.errors import DeadlineExceeded, EngineFailed, ImageRejected, Overloaded, ServiceError
from serve_app.pipeline import Pipeline, as_service_error
from tests.fakes import CARD, FakeAnswer, FakeDescribe, FakeTokenize

QUESTION = ChatRequest("q1", (Message("user", (TextPart("What is this?"),)),))


class FakeCall:
    """What a handle's `remote()` returns: awaited once, or iterated; cancelled like Serve's."""

    def __init__(self, result: Any, cancel_error: Exception | None) -> None:
        self._result = result
        self._cancel_error = cancel_error
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        event: Event = await anext(self._result)
        return (event,)  # the engine sends events that it has at the same time together

    def cancel(self) -> None:
        self.cancelled = True
        if self._cancel_error is not None:
            raise self._cancel_error


class FakeHandle:
    """A deployment's handle whose methods return what they were given."""

    def __init__(self, *, cancel_error: Exception | None = None, **methods: Any) -> None:
        self.methods = methods
        self.cancel_error = cancel_error
        self.calls: list[tuple[dict[str, Any], tuple[Any, ...], FakeCall]] = []

    def options(self, **options: Any) -> FakeMethod:
        return FakeMethod(self, options)


class FakeMethod:
    def __init__(self, handle: FakeHandle, options: dict[str, Any]) -> None:
        self._handle = handle
        self._options = options

    def remote(self, *arguments: Any) -> FakeCall:
        call = FakeCall(self._handle.methods[self._options["method_name"]](*arguments), self._handle.cancel_error)
        self._handle.calls.append((self._options, arguments, call))
        return call


async def abilities() -> tuple[str, ...]:
    return ("vision", "tools")


PROMPT = Prompt("q1", np.array([1, 2], dtype=np.int32), (), Sampling(max_tokens=4), deadline_s=60.0)


async def prepared() -> Prompt:
    return PROMPT


def pipeline_over(
    answer: Any, describe: Any = None, *, prepare: Any = prepared, tokenize: Any = None, abilities: Any = abilities
) -> tuple[Pipeline, FakeHandle, FakeHandle]:
    preprocess = FakeHandle(
        prepare=lambda request, unsent, again: prepare,
        tokenize=lambda request: partial(tokenize or FakeTokenize(), request),
        abilities=lambda: abilities,
    )
    engine = FakeHandle(generate=answer, describe=lambda: describe or FakeDescribe())
    return Pipeline(preprocess, engine), preprocess, engine


def fake_answer(*texts: str, **options: Any) -> Any:
    fake = FakeAnswer(*texts, **options)
    return lambda prompt: fake(QUESTION)


async def collect(events: Events) -> list[Event]:
    async with aclosing(events):
        return [event async for event in events]


async def test_events_come_back_in_order():
    pipeline, *_ = pipeline_over(fake_answer("Two ", "cats"))
    events = await collect(pipeline.answer(QUESTION))
    assert [type(event) for event in events] == [Started, Delta, Delta, Finished]


async def test_the_engine_gets_the_prompt():
    pipeline, _, engine = pipeline_over(fake_answer("x"))
    await collect(pipeline.answer(QUESTION))
    ((_, arguments, _),) = engine.calls
    assert arguments == (PROMPT,)


async def test_a_preprocess_replica_that_dies_fails_its_request_and_calls_no_engine():
    async def dead() -> None:
        raise ActorUnavailableError("Actor is unavailable.", None)

    pipeline, _, engine = pipeline_over(fake_answer("x"), prepare=dead)
    with pytest.raises(EngineFailed, match="The replica that worked on this request died"):
        await collect(pipeline.answer(QUESTION))
    assert not engine.calls


@pytest.mark.parametrize(
    ("source", "by_reference"),
    [
        (b"x" * 50_000, False),
        ("data:image/png;base64,AAAA", False),
        (b"x" * 150_000, True),
        ("https://a.b/c.jpg", True),
    ],
    ids=["small", "small data URL", "large", "of unknown size"],
)
async def test_large_pictures_travel_by_reference(source: bytes | str, by_reference: bool):
    pipeline, preprocess, _ = pipeline_over(fake_answer("x"))
    await collect(pipeline.answer(ChatRequest("q1", (Message("user", (ImagePart(source), TextPart("?"))),))))
    assert preprocess.calls[0][0]["_by_reference"] is by_reference


async def test_events_are_streamed_by_value():
    pipeline, _, engine = pipeline_over(fake_answer("x"))
    await collect(pipeline.answer(QUESTION))
    assert engine.calls[0][0] == {"method_name": "generate", "stream": True, "_by_reference": False}


async def test_a_finished_answer_is_not_cancelled():
    pipeline, preprocess, engine = pipeline_over(fake_answer("x"))
    await collect(pipeline.answer(QUESTION))
    assert not engine.calls[0][2].cancelled
    assert not preprocess.calls[0][2].cancelled


async def test_closing_the_answer_early_cancels_the_engines_call():
    pipeline, _, engine = pipeline_over(fake_answer("Two ", "cats"))
    async with aclosing(pipeline.answer(QUESTION)) as events:
        await anext(events)
    assert engine.calls[0][2].cancelled


async def test_a_request_cancelled_while_the_engine_works_cancels_its_call():
    pipeline, _, engine = pipeline_over(fake_answer(hold_after=0))
    task = asyncio.create_task(collect(pipeline.answer(QUESTION)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.calls[0][2].cancelled


async def test_a_request_cancelled_while_pictures_are_prepared_cancels_that_call():
    pipeline, preprocess, engine = pipeline_over(fake_answer("x"), prepare=asyncio.Event().wait)
    task = asyncio.create_task(collect(pipeline.answer(QUESTION)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert preprocess.calls[0][2].cancelled
    assert not engine.calls


async def test_the_deadline_cancels_preprocess_too():
    pipeline, preprocess, _ = pipeline_over(fake_answer("x"), prepare=asyncio.Event().wait)
    with pytest.raises(DeadlineExceeded):
        await collect(pipeline.answer(replace(QUESTION, deadline_s=0.01)))
    assert preprocess.calls[0][2].cancelled


async def test_the_deadline_cancels_the_engines_call():
    pipeline, _, engine = pipeline_over(fake_answer("x", hold_after=2))
    short = ChatRequest("q1", QUESTION.messages, deadline_s=0.02)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.02 s"):
        await collect(pipeline.answer(short))
    assert engine.calls[0][2].cancelled


async def test_a_request_without_a_replica_waits_for_the_first_one():
    engine = FakeAnswer("x", hold_after=0)  # a handle keeps a call until there is a replica
    pipeline, *_ = pipeline_over(lambda prompt: engine(QUESTION))
    task = asyncio.create_task(collect(pipeline.answer(replace(QUESTION, deadline_s=5.0))))
    await engine.held.wait()
    assert not task.done()
    engine.release.set()
    assert isinstance((await task)[-1], Finished)


async def test_preprocess_gets_the_deadline():
    pipeline, preprocess, _ = pipeline_over(fake_answer("x"))
    await collect(pipeline.answer(ChatRequest("q1", QUESTION.messages, deadline_s=7.0)))
    assert preprocess.calls[0][1][0].deadline_s == 7.0


async def test_a_stopped_replica_is_an_error_and_not_a_cancelled_request():
    pipeline, *_ = pipeline_over(fake_answer("x", error=asyncio.CancelledError(), fail_after=1))
    with pytest.raises(EngineFailed, match="stopped"):
        await collect(pipeline.answer(QUESTION))


async def test_an_answer_without_a_last_event_is_an_error():
    pipeline, *_ = pipeline_over(fake_answer("Two", break_off=True))
    with pytest.raises(EngineFailed, match="without its final event"):
        await collect(pipeline.answer(QUESTION))


async def test_cancelling_a_call_that_failed_does_not_hide_the_failure():
    refusal = ImageRejected("image 1 is broken", param="messages[0]")
    preprocess = FakeHandle(prepare=lambda request, unsent, again: prepared, cancel_error=refusal)
    engine = FakeHandle(generate=fake_answer(error=EngineFailed("out of memory")), cancel_error=refusal)
    with pytest.raises(EngineFailed, match="out of memory"):
        await collect(Pipeline(preprocess, engine).answer(QUESTION))


async def test_describe_returns_the_engines_card_with_the_abilities_of_preprocess():
    pipeline, *_ = pipeline_over(fake_answer())
    assert await pipeline.describe() == replace(CARD, abilities=("vision", "tools"))


@pytest.mark.parametrize("stage", ["preprocess", "engine"])
async def test_describe_raises_when_a_stage_does_not_respond(monkeypatch, stage: str):
    monkeypatch.setattr("serve_app.pipeline.DESCRIBE_TIMEOUT_S", 0.01)
    silent = FakeDescribe(silent=True)
    pipeline, *_ = (
        pipeline_over(fake_answer(), silent) if stage == "engine" else pipeline_over(fake_answer(), abilities=silent)
    )
    with pytest.raises(Overloaded, match="No replica responded"):
        await pipeline.describe()


async def test_describe_maps_a_stages_error_to_ours():
    pipeline, *_ = pipeline_over(fake_answer(), FakeDescribe(error=ActorDiedError()))
    with pytest.raises(EngineFailed, match="died"):
        await pipeline.describe()


async def test_tokenize_calls_preprocess_only():
    tokenize = FakeTokenize(5, 6, image_tokens=1)
    pipeline, preprocess, engine = pipeline_over(fake_answer(), tokenize=tokenize)
    tokenized = await pipeline.tokenize(replace(QUESTION, deadline_s=3.0))
    assert (tokenized.token_ids, tokenized.image_tokens) == ((5, 6), 1)
    assert preprocess.calls[0][0] == {"method_name": "tokenize"}
    assert tokenize.requests[0].deadline_s == 3.0
    assert engine.calls == []


async def test_tokenize_raises_errors_as_preprocess_raised_them():
    refusal = as_ray_raises(ImageRejected("image 1 is broken", param="messages[0]"))
    pipeline, *_ = pipeline_over(fake_answer(), tokenize=FakeTokenize(error=refusal))
    with pytest.raises(ImageRejected, match="image 1 is broken"):
        await pipeline.tokenize(QUESTION)


async def test_tokenize_keeps_the_deadline():
    async def never(request: ChatRequest) -> None:
        await asyncio.Event().wait()

    pipeline, *_ = pipeline_over(fake_answer(), tokenize=never)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.02 s"):
        await pipeline.tokenize(replace(QUESTION, deadline_s=0.02))


def as_ray_raises(error: Exception) -> Exception:
    """The error as it arrives after a Serve call: pickled, and a subclass of Ray's and its own class."""
    task_error = RayTaskError("prepare", "traceback", error)
    raised: Exception = pickle.loads(pickle.dumps(task_error)).as_instanceof_cause()
    return raised


def test_an_error_of_ours_comes_back_as_it_was_raised():
    mapped = as_service_error(as_ray_raises(ImageRejected("image 2 is broken", param="messages[0].content[1]")))
    assert type(mapped) is ImageRejected
    assert (mapped.status, mapped.code, mapped.message, mapped.param) == (
        400,
        "invalid_image",
        "image 2 is broken",
        "messages[0].content[1]",
    )


def test_a_full_queue_has_a_time_to_retry():
    mapped = as_service_error(as_ray_raises(BackPressureError(3, 2, 503, 4.0)))
    assert isinstance(mapped, Overloaded)
    assert mapped.retry_after_s == 4.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ActorDiedError(), EngineFailed),
        (ActorUnavailableError("gone", b"0" * 16), EngineFailed),
        (OutOfMemoryError("no memory"), Overloaded),
        (RequestCancelledError("1"), EngineFailed),
        (TimeoutError(), DeadlineExceeded),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_rays_errors_become_ours(error: Exception, expected: type[ServiceError]):
    assert isinstance(as_service_error(error), expected)


def test_an_engine_that_is_not_deployed_is_an_error_of_ours():
    from ray.serve._private.common import DeploymentID

    mapped = as_service_error(DeploymentUnavailableError(DeploymentID("engine", "glm")))
    assert isinstance(mapped, EngineFailed)


def test_an_unknown_error_stays_as_it_is():
    error = KeyError("bug")
    assert as_service_error(error) is error
