"""One request through both stages, preprocess and engine; returns the events as they are generated.

It enforces the deadline, cancels both stages when the caller closes the answer, sends pixels only where the engine
needs them, frees uploads and pixels at the first event, and raises errors of `errors.py` only. Ray's own errors are
mapped here and nowhere else.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import grpc
from ray import exceptions as ray_errors
from ray.serve.context import _get_serve_request_context, _serve_request_context
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.cache.answer_cache import AnswerCache
from serve_app.cache.feedback import Feedback
from serve_app.contracts import ChatRequest, Event, Events, Finished, Prompt, Started
from serve_app.errors import DeadlineExceeded, EngineFailed, Overloaded, ReplicaLost, ServiceError
from serve_app.replies import ModelCard, PixelsNeeded, Tokenized
from serve_app.request_size import has_addresses
from serve_app.seen_pictures import LARGE_PIXELS, SeenPictures, pixel_bytes, without_pixels
from serve_app.upload_digests import with_digests

DESCRIBE_TIMEOUT_S = 5.0

PrepareAgain = Callable[[], Awaitable[Prompt]]  # the same prompt with all pixels


class RequestPreparer(Protocol):
    """Makes prompts without a call of preprocess (preprocess/local_prepare.py)."""

    def prepare(self, request: ChatRequest) -> Prompt | None:
        """The request's prompt; None if preprocess has to make it."""
        ...

    def remember(self, request: ChatRequest, prompt: Prompt) -> None:
        """Preprocess has made this prompt of the request."""
        ...


class Pipeline:
    """Calls the stages: `answer` returns events, `tokenize` token ids, `describe` the served model."""

    def __init__(
        self,
        preprocess: DeploymentHandle,
        engine: DeploymentHandle,
        cache: AnswerCache | None = None,
        local: RequestPreparer | None = None,
    ) -> None:
        # Why there are two methods: docs/decisions/0003-prompt-transport.md
        self._prepare_small = preprocess.options(method_name="prepare", _by_reference=False)
        self._prepare_large = preprocess.options(method_name="prepare", _by_reference=True)
        self._engine_call = engine.options(method_name="generate", stream=True, _by_reference=False)
        self._begin_call = engine.options(method_name="begin", _by_reference=True)
        self._tokenize = preprocess.options(method_name="tokenize")
        self._abilities = preprocess.options(method_name="abilities")
        self._describe = engine.options(method_name="describe")
        self._shared: dict[tuple[str, bool], _SharedPrompt] = {}
        self._seen = SeenPictures()
        self._cache = cache
        self._local = local

    async def answer(self, request: ChatRequest) -> Events:
        """Events of one answer, from the answer cache or the engine; closing the generator early stops the work."""
        deadline = asyncio.get_running_loop().time() + request.deadline_s

        async def prepare() -> Prompt:
            async with asyncio.timeout_at(deadline):
                return await self._shared_prompt(request)

        async def prepare_again() -> Prompt:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            async with asyncio.timeout_at(deadline):
                return await self._shared_prompt(replace(request, deadline_s=left_s), again=True)

        def generate_for_all(prompt: Prompt) -> Events:
            return self._generate_for_all(prompt, prepare_again)

        event: Event | None = None
        try:
            if self._cache is not None and self._cache.applies_to(request):
                events = self._cache.answer(request, prepare, generate_for_all)
            else:
                events = self._generate(await prepare(), prepare_again)
            async with aclosing(events), aclosing(_until(deadline, events)) as received:
                async for event in received:
                    yield event
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The answer was not complete within {request.deadline_s:g} s, its limit."
            ) from error
        except asyncio.CancelledError:
            if _cancelled_by_caller():
                raise
            raise EngineFailed("The replica that worked on this answer was stopped.") from None
        except Exception as error:
            raise as_service_error(error) from error
        if not isinstance(event, Finished):
            raise EngineFailed("The engine ended this answer without its final event.")

    async def _generate_for_all(self, prompt: Prompt, prepare_again: PrepareAgain) -> AsyncGenerator[Event, None]:
        """`_generate` in a task of its own, whose events other requests may read too; raises errors of ours."""
        _leave_request()
        events = self._generate(prompt, prepare_again)
        del prompt, prepare_again
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except Exception as error:
            raise as_service_error(error) from error

    async def _generate(self, given: Prompt, prepare_again: PrepareAgain) -> AsyncGenerator[Event, None]:
        """Events of the engine.

        The prompt goes without pixels that the engine has seen; if it needs them, the prompt is sent again with all.
        If a replica dies before the first text, the request is repeated once on another one. For that, `Started` is
        kept back until there is text, because the HTTP response begins with it.
        """
        prompt: Prompt | None = given
        sent: Prompt | None = self._seen.without_sent_pixels(given)
        again: PrepareAgain | None = prepare_again
        del given, prepare_again
        lost = ahead = False
        while sent is not None:
            call: Any = None
            outgoing: Prompt | None = sent
            started: Started | None = None
            event: Event | PixelsNeeded | None = None
            try:
                if not ahead and pixel_bytes(sent) > LARGE_PIXELS:
                    ahead, outgoing = True, without_pixels(sent)
                    await self._begin(outgoing, sent)
                call = self._engine_call.remote(outgoing)
                async for events in call:
                    for event in events:
                        if isinstance(event, Started):
                            started = event
                            if sent is not None:
                                self._seen.add_sent(sent)
                        elif not isinstance(event, PixelsNeeded):
                            # Frees pixels and request while the answer is generated.
                            prompt = sent = outgoing = again = None
                            if started is not None:
                                yield started
                                started = None
                            yield event
            except Exception as error:
                if lost or sent is None or not isinstance(as_service_error(error), ReplicaLost):
                    raise
                lost = True
                continue
            finally:
                if not isinstance(event, Finished | PixelsNeeded):
                    _cancel(call)
            if not isinstance(event, PixelsNeeded):
                return
            if sent is None or again is None or outgoing is None or outgoing.has_all_pixels:
                raise EngineFailed("The engine asked for pixels that it was sent.")
            if prompt is None or not prompt.has_all_pixels:
                prompt = await again()
            sent = prompt

    async def _begin(self, light: Prompt, prompt: Prompt) -> None:
        """Begins the answer by way of Ray's object store; `light`, the prompt without pixels, decides the replica."""
        call = self._begin_call.remote(light, prompt)
        try:
            await call
        except asyncio.CancelledError:
            _cancel(call)
            raise

    async def _shared_prompt(self, request: ChatRequest, *, again: bool = False) -> Prompt:
        """The request's prompt; requests of one group wait for the same one. `again`: with all pixels."""
        if not request.group:
            return await self._prompt(request, again)
        key = (request.group, again)
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = _SharedPrompt(asyncio.create_task(self._prompt(request, again)))
        shared.waiting += 1
        try:
            prompt = await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                del self._shared[key]
                shared.task.cancel()
        return replace(prompt, id=request.id, sampling=replace(prompt.sampling, seed=request.sampling.seed))

    async def _prompt(self, request: ChatRequest, again: bool) -> Prompt:
        """The prompt, made in this process if it can be, else by preprocess."""
        request = await with_digests(request)
        if self._local is not None and not again and (local := self._local.prepare(request)) is not None:
            return local
        prompt = await self._prepare(request, again)
        self._seen.add_uploads(request)
        if self._local is not None:
            self._local.remember(request, prompt)
        return prompt

    async def _prepare(self, request: ChatRequest, again: bool) -> Prompt:
        """The reply of preprocess; the call is repeated once if the replica dies."""
        prepare = self._prepare_large if self._seen.by_reference(request, again=again) else self._prepare_small
        # A picture at an address is fetched only once, so its pixels always come with the prompt.
        unsent = not again and not has_addresses(request)
        for last in (False, True):
            # Awaited here, not by the engine's router, which runs in this process too: if preprocess dies, Serve 2.60's
            # router reads the result of the lost call again and again, without a pause and for ever.
            call = prepare.remote(request, unsent, again)
            try:
                prompt: Prompt = await call
            except asyncio.CancelledError:
                _cancel(call)
                raise
            except Exception as error:
                if last or not isinstance(as_service_error(error), ReplicaLost):
                    raise
            else:
                return prompt
        raise AssertionError

    async def tokenize(self, request: ChatRequest) -> Tokenized:
        """The request's token ids; its pictures are measured, not decoded."""
        late = DeadlineExceeded(f"The request was not tokenized within {request.deadline_s:g} s, its limit.")
        tokenized: Tokenized = await _within(request.deadline_s, self._tokenize.remote(request), late)
        return tokenized

    async def feedback(self, feedback: Feedback) -> int:
        """Removes a kept answer that was called wrong; returns how many answers were removed."""
        return 0 if self._cache is None else await self._cache.rate(feedback)

    async def describe(self) -> ModelCard:
        """The served model, from a ready replica of each stage; raises Overloaded if one does not respond."""
        # Both calls run at once: a deployment response starts before it is awaited.
        card, abilities = self._describe.remote(), self._abilities.remote()
        late = Overloaded(f"No replica responded within {DESCRIBE_TIMEOUT_S:g} s.")
        described: ModelCard = await _within(DESCRIBE_TIMEOUT_S, card, late)
        return replace(described, abilities=await _within(DESCRIBE_TIMEOUT_S, abilities, late))


@dataclass(slots=True)
class _SharedPrompt:
    """The prompt of a group of requests while it is prepared."""

    task: asyncio.Task[Prompt]
    waiting: int = 0


async def _until(deadline: float, events: Any) -> AsyncGenerator[Event, None]:
    """The events; raises TimeoutError when one does not come before the deadline, in the event loop's time."""
    while True:
        async with asyncio.timeout_at(deadline):
            try:
                event = await anext(events)
            except StopAsyncIteration:
                return
        yield event


async def _within(seconds: float, response: Any, late: ServiceError) -> Any:
    """A stage's result; raises `late` after the time limit, and the stage's errors as ours."""
    try:
        async with asyncio.timeout(seconds):
            return await response
    except TimeoutError as error:
        raise late from error
    except Exception as error:
        raise as_service_error(error) from error


def as_service_error(error: Exception) -> Exception:
    """Maps Ray's errors to ours; returns an error of ours without Ray's wrapping."""
    while isinstance(error, ray_errors.RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    match error:
        case ServiceError():
            return error
        case BackPressureError():
            overloaded = Overloaded("The queue of the service is full. Try again shortly.")
            overloaded.retry_after_s = error.retry_after_s or Overloaded.retry_after_s
            return overloaded
        case DeploymentUnavailableError():
            return EngineFailed("The model is not running. The service's log has the reason.")
        case ray_errors.RayActorError() | ray_errors.WorkerCrashedError() | ray_errors.NodeDiedError():
            return ReplicaLost("The replica that worked on this request died; a new one is being started.")
        case ray_errors.OutOfMemoryError() | ray_errors.ObjectStoreFullError() | ray_errors.OutOfDiskError():
            return Overloaded("The machine has no memory left for this request.")
        case ray_errors.TaskCancelledError():
            return EngineFailed("The replica that worked on this request was stopped.")
        case TimeoutError():
            return DeadlineExceeded("A stage of this request took longer than allowed.")
        case ray_errors.RayError() | RayServeException() | grpc.RpcError():
            return EngineFailed(f"The connection to the model failed: {_first_line(error)}")
        case _:
            return error


def _cancel(call: Any) -> None:
    # A call that already failed raises its failure again when cancelled; the first one was raised already.
    with suppress(Exception):
        if call is not None:
            call.cancel()


def _leave_request() -> None:
    """Makes this task's calls independent of the HTTP request, whose calls Serve cancels when its client leaves."""
    request = _get_serve_request_context()
    _serve_request_context.set(replace(request, _internal_request_id=uuid.uuid4().hex))


def _cancelled_by_caller() -> bool:
    """Whether this task was cancelled; Ray raises CancelledError also when the replica's call was."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
