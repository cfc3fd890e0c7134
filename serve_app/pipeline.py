"""The way of one request in two hops: preprocess, engine; events come back as they happen.

Promises: the deadline holds, a caller who goes away takes the work of both stages along, no pixels
outlive the first event, and what goes wrong is one of `errors.py`. Ray's own errors are known here
and nowhere else.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc
from ray import exceptions as ray_errors
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.contracts import ChatRequest, Events, Finished, ImagePart, ModelCard, Tokenized
from serve_app.errors import DeadlineExceeded, EngineFailed, Overloaded, ServiceError

DEADLINE_S = 300.0  # of a request whose door sets none
DESCRIBE_TIMEOUT_S = 5.0
SMALL_BYTES = 100_000  # encoded; the pixels of such pictures travel faster as a message than by the object store


class Pipeline:
    """What every door calls: `answer` for events, `tokenize` for ids, `describe` for what is served."""

    def __init__(self, preprocess: DeploymentHandle, engine: DeploymentHandle) -> None:
        # Why two ways for prompts: docs/decisions/0003-prompt-transport.md
        self._prepare_small = preprocess.options(method_name="prepare", _by_reference=False)
        self._prepare_large = preprocess.options(method_name="prepare", _by_reference=True)
        self._generate = engine.options(method_name="generate", stream=True, _by_reference=False)
        self._tokenize = preprocess.options(method_name="tokenize")
        self._abilities = preprocess.options(method_name="abilities")
        self._describe = engine.options(method_name="describe")

    async def answer(self, request: ChatRequest) -> Events:
        """Events of one answer; closing the generator early stops the work on it."""
        allowed_s = DEADLINE_S if request.deadline_s is None else request.deadline_s
        deadline = asyncio.get_running_loop().time() + allowed_s
        prepare = self._prepare_small if _is_small(request) else self._prepare_large
        prepared: Any = prepare.remote(replace(request, deadline_s=allowed_s))
        events: Any = None
        terminal = False
        try:
            # Awaited here, not by the engine's router (either way in this process): if preprocess dies, Serve 2.60's
            # router asks the lost call for its result again and again, without a pause and without an end.
            async with asyncio.timeout_at(deadline):
                prompt = await prepared
            prepared = None
            events = self._generate.remote(prompt)
            while True:
                async with asyncio.timeout_at(deadline):
                    try:
                        event = await anext(events)
                    except StopAsyncIteration:
                        break
                prompt = None  # taken in; letting go of it frees its pixels while the answer is decoded
                terminal = isinstance(event, Finished)
                yield event
        except TimeoutError as error:
            raise DeadlineExceeded(f"No complete answer within the {allowed_s:g} s allowed.") from error
        except asyncio.CancelledError:
            if _cancelled_by_caller():
                raise
            raise EngineFailed("The replica that worked on this answer was stopped.") from None
        except Exception as error:
            raise as_service_error(error) from error
        finally:
            if not terminal:
                _cancel(events)
                _cancel(prepared)
        if not terminal:
            raise EngineFailed("The engine ended this answer without saying why.")

    async def tokenize(self, request: ChatRequest) -> Tokenized:
        """The request as the model would read it; its pictures are measured, not decoded."""
        allowed_s = DEADLINE_S if request.deadline_s is None else request.deadline_s
        tokenized: Tokenized = await _within(
            allowed_s,
            self._tokenize.remote(replace(request, deadline_s=allowed_s)),
            DeadlineExceeded(f"The request was not tokenized within the {allowed_s:g} s allowed."),
        )
        return tokenized

    async def describe(self) -> ModelCard:
        """What is served, as a ready replica of each stage says it; raises when one does not answer."""
        # Both are asked at once: a deployment response is under way before it is awaited.
        card, abilities = self._describe.remote(), self._abilities.remote()
        late = Overloaded(f"No replica answered within {DESCRIBE_TIMEOUT_S:g} s.")
        described: ModelCard = await _within(DESCRIBE_TIMEOUT_S, card, late)
        return replace(described, abilities=await _within(DESCRIBE_TIMEOUT_S, abilities, late))


async def _within(seconds: float, response: Any, late: ServiceError) -> Any:
    """What a stage returns, or `late`; its errors as ours."""
    try:
        async with asyncio.timeout(seconds):
            return await response
    except TimeoutError as error:
        raise late from error
    except Exception as error:
        raise as_service_error(error) from error


def _is_small(request: ChatRequest) -> bool:
    """Whether few pixels are to be expected; of a picture at an address nobody knows yet."""
    sources = [part.source for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
    if any(isinstance(source, str) and not source.startswith("data:") for source in sources):
        return False
    return sum(map(len, sources)) <= SMALL_BYTES


def as_service_error(error: Exception) -> Exception:
    """Ray's failures as ours; an error of ours as it was raised, without Ray's wrapping."""
    while isinstance(error, ray_errors.RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    match error:
        case ServiceError():
            return error
        case BackPressureError():
            overloaded = Overloaded("The service has as many requests waiting as it accepts; try again shortly.")
            overloaded.retry_after_s = error.retry_after_s or Overloaded.retry_after_s
            return overloaded
        case DeploymentUnavailableError():
            return EngineFailed("The model is not running; the service's log says why.")
        case ray_errors.RayActorError() | ray_errors.WorkerCrashedError() | ray_errors.NodeDiedError():
            return EngineFailed("The replica that worked on this request died; a new one is being started.")
        case ray_errors.OutOfMemoryError() | ray_errors.ObjectStoreFullError() | ray_errors.OutOfDiskError():
            return Overloaded("The machine has no memory left for this request.")
        case ray_errors.TaskCancelledError():
            return EngineFailed("The replica that worked on this request was stopped.")
        case TimeoutError():
            return DeadlineExceeded("A stage of this request took longer than allowed.")
        case ray_errors.RayError() | RayServeException() | grpc.RpcError():
            return EngineFailed(f"The connection to the model broke: {_first_line(error)}")
        case _:
            return error


def _cancel(call: Any) -> None:
    # A call that already failed raises its failure again when cancelled; we have told the first one.
    with suppress(Exception):
        if call is not None:
            call.cancel()


def _cancelled_by_caller() -> bool:
    """Whether this task was cancelled; Ray raises CancelledError also when the replica's end was."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
