"""What the answering routes share: the pipeline's functions, the model's name, clock, ids and limits.

Each API's `routes.py` makes its response id from `new_id`; `choices` adds the index of a choice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from serve_app.cache.feedback import Feedback
from serve_app.contracts import Answer, ChatRequest
from serve_app.errors import InvalidRequest, UnknownModel
from serve_app.ingress.fields.strict_model import RequestBody
from serve_app.ingress.json_limits import has_many_values
from serve_app.ingress.validation import truncate
from serve_app.replies import Tokenize
from serve_app.settings import ModelSettings

GiveFeedback: TypeAlias = Callable[[Feedback], Awaitable[int]]

BodyT = TypeVar("BodyT", bound=RequestBody)

# One thread: several would take turns with the event loop, which would then respond slowly.
_VALIDATION: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="validation")
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class ServingContext:
    """Everything a route needs to turn a validated request body into a response."""

    answer: Answer
    tokenize: Tokenize
    feedback: GiveFeedback
    served: str  # the model's name
    names: frozenset[str]  # that a request may give the model, in lower case
    fingerprint: str
    deadline_s: float
    max_choices: int
    default_max_tokens: int  # of an answer whose request has no limit
    ignore_unknown: bool  # fields, instead of refusing the request
    keep_alive_s: float  # a stream is never silent for longer
    recent_items_bytes: int  # memory for items of recent answers
    now: Callable[[], float]  # seconds since 1970
    new_id: Callable[[], str]

    async def read(self, kind: type[BodyT], fields: dict[str, Any]) -> BodyT:
        """The validated body; raises InvalidRequest that names the field, and UnknownModel."""
        validate = partial(kind.read, fields, ignore_unknown=self.ignore_unknown)
        if has_many_values(fields):
            body = await asyncio.get_running_loop().run_in_executor(_VALIDATION, validate)
        else:
            body = validate()
        self.check_model(body.model)
        return body

    def check_model(self, requested: str | None) -> None:
        if requested is not None:
            check_model(requested, self.served, self.names)

    def choices(self, request: ChatRequest, n: int | None) -> tuple[ChatRequest, ...]:
        """The same request `n` times, each with its own id and, if a seed was given, its own seed."""
        if n is None or n == 1:
            return (request,)
        if n > self.max_choices:
            raise InvalidRequest(f"'n' is {n}; this service gives {self.max_choices} answers at most.", "n")
        sampling, seed = request.sampling, request.sampling.seed
        return tuple(
            replace(
                request,
                id=f"{request.id}-{index}",
                group=request.id,
                sampling=sampling if seed is None else replace(sampling, seed=_add_to_seed(seed, index)),
            )
            for index in range(n)
        )


def _add_to_seed(seed: int, number: int) -> int:
    """The sum, wrapped to signed 64 bits."""
    return (seed + number + 2**63) % 2**64 - 2**63


def model_names(model: ModelSettings) -> frozenset[str]:
    """Every name of the served model in lower case: its own, its aliases and its hub id."""
    hub_id = (model.path,) if _HUB_ID.fullmatch(model.path) else ()
    return frozenset(name.casefold() for name in (model.served_name, *model.aliases, *hub_id))


def check_model(requested: str, served: str, names: Collection[str]) -> None:
    if requested.casefold() not in names:
        raise UnknownModel(
            f"The model '{truncate(requested)}' is not served here; this service has '{served}'.", "model"
        )
