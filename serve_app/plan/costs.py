"""How long the parts of a request take on a card: a picture, a piece of a prompt, one step.

A roofline: arithmetic over the card's rate, or bytes over its bandwidth, each times the share of the data sheet that
the engine was measured to reach, plus what was measured to be the same for any size. The shares were measured on one
card (`measured.py`) and are taken over to the others.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

from serve_app.engine.model.quantization import Quantization
from serve_app.plan.cards import Card, card_named
from serve_app.plan.checkpoints import Checkpoint
from serve_app.plan.measured import REACHED

_REFERENCE: Final = card_named(REACHED.card)


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds on one card, for one checkpoint held in one way."""

    card: Card
    checkpoint: Checkpoint
    quantization: Quantization

    def encode_s(self, tokens: int) -> float:
        """A picture of so many tokens through the tower, features not cached."""
        share = REACHED.encode_share["chatglm" if self.checkpoint.model_type == "chatglm" else "glm4v"]
        return self._arithmetic_s(self.checkpoint.encode_flop(tokens), share)

    def chunk_s(self, start: int, stop: int) -> float:
        """Prompt tokens [start, stop) through the text layers; all before `start` are in the cache."""
        seconds = self._arithmetic_s(self.checkpoint.prefill_flop(start, stop), REACHED.prefill_share)
        seconds = max(seconds, REACHED.chunk_least_s, self._weights_s)
        return seconds + self._unpacking_s(REACHED.unpack_chunk_s)

    def prompt_s(self, tokens: int, chunk_tokens: int, first: int = 0) -> float:
        """A whole prompt in chunks; the first one of `first` tokens, where another prompt has taken the rest of it."""
        edges = [0, *range(first or chunk_tokens, tokens, chunk_tokens), tokens]
        return sum(self.chunk_s(start, stop) for start, stop in itertools.pairwise(edges))

    def step_s(self, rows: float, length: float) -> float:
        """The next token of so many answers, each with `length` tokens in the cache; `rows` may be a mean, from 1."""
        unpacking = self._unpacking_s(interpolated(REACHED.unpack_step_s, rows))
        head = self._bytes_s(self.checkpoint.head * self._itemsize)
        cache = self._bytes_s(rows * length * self.checkpoint.sizes.cache.bytes_per_token)
        small = REACHED.step_fixed_s + rows * REACHED.step_row_s  # kernels, sampling, Python between two steps
        return max(self._weights_s, unpacking) + head + cache + small

    @property
    def _weights_s(self) -> float:
        """The text layers' weights from memory, once."""
        text = self.checkpoint.sizes.text_linear
        return self._bytes_s(text * self._itemsize if self.quantization.kind == "none" else text / 2)

    def _unpacking_s(self, seconds: float) -> float:
        """Time that goes with plain instructions, from the reference card to this one; none for whole weights."""
        if self.quantization.kind == "none":
            return 0.0
        size = self.checkpoint.sizes.text_linear / REACHED.text_linear
        return seconds * size * _REFERENCE.sm_ghz / self.card.sm_ghz

    def _arithmetic_s(self, flop: float, share: float) -> float:
        return flop / (share * self.card.tensor_tflops * 1e12)

    def _bytes_s(self, count: float) -> float:
        return count / (REACHED.bandwidth_share * self.card.bandwidth_gb_s * 1e9)

    @property
    def _itemsize(self) -> int:
        return self.checkpoint.sizes.cache.dtype.itemsize


def interpolated(points: tuple[tuple[float, float], ...], at: float) -> float:
    """On the line through the two points around `at`; beyond the ends, the end's value."""
    (left, value), *rest = points
    if at <= left:
        return value
    for right, following in rest:
        if at <= right:
            return value + (following - value) * (at - left) / (right - left)
        left, value = right, following
    return value
