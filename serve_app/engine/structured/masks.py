"""Token masks: which tokens the constraints of a batch allow, filled for all rows at once.

A mask is a row of bits, one for each token id, in 32-bit words, lowest bit first. Masks are filled on the CPU
while a GPU computes the logits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from serve_app.engine.scheduler import MOST_DRAFTED
from serve_app.engine.sequence import Sample
from serve_app.engine.structured.compiler import constraint_failure
from serve_app.errors import InvalidRequest

_SERIAL_FILL_S = 0.5e-3


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """The masks of the constrained rows of a step; `failed` holds the rows whose grammar failed."""

    rows: list[int]
    bits: NDArray[np.int32]  # (constrained rows, words)
    failed: dict[int, InvalidRequest]

    def allows(self, row: int, token_id: int) -> bool:
        """Whether a token is allowed in a row; without a mask, all are."""
        if row not in self.rows:
            return True
        return bool(self.bits[self.rows.index(row), token_id // 32] >> (token_id % 32) & 1)


class MaskFiller:
    """Fills the masks of all constrained rows of a step."""

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        # Page-locked, so that the copy to a GPU is asynchronous.
        shape = slots + MOST_DRAFTED, -(-(vocab_size + 1) // 32)
        words = torch.zeros(shape, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._words: NDArray[np.int32] = words.numpy()
        self._executor = LLExecutor()

    def fill(self, samples: list[Sample]) -> TokenMasks | None:
        """The masks of a batch, valid until the next call; None if no row is constrained."""
        rows: list[int] = []
        matchers: list[LLMatcher] = []
        for row, sample in enumerate(samples):
            if (matcher := sample.sequence.matcher) is None:
                continue
            if sample.drafted:
                matcher = matchers[-1].deep_copy()  # that of the sample before, which has one drafted token less
                matcher.consume_token(sample.drafted[-1])
            rows.append(row)
            matchers.append(matcher)
        if not rows:
            return None
        bits = self._words[: len(rows)]
        self._fill(matchers, bits)
        failed = {
            row: constraint_failure(samples[row].sequence.prompt, matcher)
            for row, matcher in zip(rows, matchers, strict=True)
            if matcher.is_error()
        }
        return TokenMasks(rows, bits, failed)

    def _fill(self, matchers: list[LLMatcher], bits: NDArray[np.int32]) -> None:
        """Most masks take 10 µs, less than waking a thread; after `_SERIAL_FILL_S`, threads fill the rest."""
        started = time.perf_counter()
        for index, matcher in enumerate(matchers):
            if time.perf_counter() - started > _SERIAL_FILL_S:
                rest = list(zip(matchers, range(len(matchers)), strict=True))[index:]
                fill_next_token_bitmask_par(self._executor, rest, bits)
                return
            fill_next_token_bitmask(matcher, bits, index)
