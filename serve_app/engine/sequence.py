"""One request inside the engine: everything that changes while it is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Event, Prompt, Usage
from serve_app.errors import ServiceError

if TYPE_CHECKING:
    import torch

    from serve_app.engine.text import TextStream

Sink = Callable[[Event | ServiceError], None]


@dataclass(eq=False, slots=True)
class Sequence:
    """State of one request; what can be derived is a property.

    The cache holds `cached` tokens: the prefilled part of the prompt, then every generated token but
    the newest, which the next decode step feeds in.
    """

    prompt: Prompt
    sink: Sink
    text: TextStream
    seed: int
    arrived: float  # seconds on the engine's clock
    positions: NDArray[np.int64]  # (axes, prompt tokens)
    position_delta: int  # position of a generated token = its index in the cache + delta
    slot: int = -1
    prefilled: int = 0
    generated: list[int] = field(default_factory=list)
    features: torch.Tensor | None = None  # (image tokens, hidden), in prompt order
    stages_ms: dict[str, float] = field(default_factory=dict)
    first_token_at: float = 0.0
    tokens_told: int = 0  # generated tokens whose text has gone out
    told_at: float = 0.0
    untold: str = ""  # text that waits for the stream's next piece

    @property
    def id(self) -> str:
        return self.prompt.id

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt.token_ids)

    @property
    def in_prefill(self) -> bool:
        return self.prefilled < self.prompt_tokens

    @property
    def cached(self) -> int:
        return self.prefilled + max(0, len(self.generated) - 1)

    @property
    def reserved(self) -> int:
        """Cache tokens this sequence may grow to."""
        return self.prompt_tokens + self.max_tokens

    @property
    def max_tokens(self) -> int:
        limit = self.prompt.sampling.max_tokens
        assert limit is not None, "preprocess resolves max_tokens"
        return limit

    @property
    def deadline(self) -> float:
        return self.arrived + self.prompt.deadline_s

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, len(self.generated), self.prompt.image_tokens)
