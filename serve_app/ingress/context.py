"""What the answering routes share: the pipeline's functions, the model's name, clock, ids and limits.

Each API's `routes.py` makes its response id from `new_id`; `choices` adds the index of a choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from serve_app.contracts import Answer, ChatRequest, Tokenize
from serve_app.errors import InvalidRequest, UnknownModel
from serve_app.ingress.validation import truncate


@dataclass(frozen=True, slots=True)
class ServingContext:
    """Everything a route needs to turn a validated request body into a response."""

    answer: Answer
    tokenize: Tokenize
    served: str  # the model's name
    fingerprint: str
    deadline_s: float
    max_choices: int
    now: Callable[[], float]  # seconds since 1970
    new_id: Callable[[], str]

    def check_model(self, requested: str | None) -> None:
        check_model(requested, self.served)

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


def check_model(requested: str | None, served: str) -> None:
    if requested is not None and requested != served:
        raise UnknownModel(
            f"The model '{truncate(requested)}' is not served here; this service has '{served}'.", "model"
        )
