"""What preprocess asks of a model family; one file a family answers it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import ChatRequest, Detail, Thinking
from serve_app.preprocess.images import Name

ABILITIES: Final = (
    "chat",
    "vision",
    "streaming",
    "multiple_images",
    "structured_output",
    "logprobs",
    "thinking",  # reasons before it answers
    "thinking_switch",  # if it is told to
    "thinking_budget",  # for so many tokens at most
    "tools",
    "tool_images",  # sees pictures in tools' results
    "boxes",  # marks regions of a picture
)
_ALWAYS = {"chat", "vision", "streaming", "structured_output", "logprobs"}


@dataclass(frozen=True, slots=True)
class Context:
    """Most cache tokens that prompt and answer may take together."""

    tokens: int
    why: str = ""  # whose limit it is, where the number alone would puzzle

    def __str__(self) -> str:
        return f"the context is {self.tokens} tokens{self.why and f' ({self.why})'}"


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A request as the model reads it."""

    token_ids: NDArray[np.int32]  # (tokens,), every picture's placeholders in full
    thinking: Thinking  # resolved


class Family(Protocol):
    """One checkpoint's rules for prompts and pictures."""

    @property
    def abilities(self) -> tuple[str, ...]:
        """What template and tokenizer can express, out of ABILITIES and in their order."""
        ...

    @property
    def max_pictures(self) -> int | None:
        """Most pictures in a whole conversation; None: as many as fit."""
        ...

    def context(self, pictures: int) -> Context:
        """How long prompt and answer may be with so many pictures."""
        ...

    def seen_size(self, width: int, height: int, detail: Detail, name: Name) -> tuple[int, int]:
        """(width, height) at which the model sees a picture of this size; raises ImageRejected."""
        ...

    def tokens(self, width: int, height: int) -> int:
        """Cache tokens of a picture that is seen at this size."""
        ...

    def read(self, request: ChatRequest, counts: Sequence[int], limit: int) -> Reading:
        """The ids of a request whose n-th picture takes `counts[n]` tokens.

        Raises InvalidRequest for what the model can't do, and ContextTooLong for a text that cannot fit
        `limit` tokens; a prompt that only just does not fit comes back whole.
        """
        ...


def in_order(found: Collection[str]) -> tuple[str, ...]:
    """Every family's abilities and those found, in the order of ABILITIES."""
    return tuple(ability for ability in ABILITIES if ability in _ALWAYS or ability in found)
