"""What the answering routes share: the pipeline, the model's name, clock and ids, and how often to ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from serve_app.contracts import Answer, ChatRequest, Tokenize
from serve_app.errors import InvalidRequest, UnknownModel
from serve_app.ingress.errors import clipped


@dataclass(frozen=True, slots=True)
class Door:
    """Everything a route needs to turn a checked body into an answer."""

    answer: Answer
    tokenize: Tokenize
    served: str  # the model's name
    fingerprint: str
    deadline_s: float
    max_choices: int
    now: Callable[[], float]  # seconds since 1970
    new_id: Callable[[], str]

    def check_model(self, asked: str | None) -> None:
        check_model(asked, self.served)

    def choices(self, request: ChatRequest, n: int | None) -> tuple[ChatRequest, ...]:
        """The same request `n` times: ids differ, and seeds, if one was given."""
        if n is None or n == 1:
            return (request,)
        if n > self.max_choices:
            raise InvalidRequest(f"'n' is {n}; this service gives {self.max_choices} answers at most.", "n")
        sampling, seed = request.sampling, request.sampling.seed
        return tuple(
            replace(
                request,
                id=f"{request.id}-{index}",
                sampling=sampling if seed is None else replace(sampling, seed=_next_seed(seed, index)),
            )
            for index in range(n)
        )


def _next_seed(seed: int, steps: int) -> int:
    """`steps` after it, within signed 64 bits."""
    return (seed + steps + 2**63) % 2**64 - 2**63


def check_model(asked: str | None, served: str) -> None:
    if asked is not None and asked != served:
        raise UnknownModel(f"The model '{clipped(asked)}' is not served here; this service has '{served}'.", "model")
