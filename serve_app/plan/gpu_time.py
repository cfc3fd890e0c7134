"""Estimates the GPU time of a request: encoding its pictures, reading its prompt, writing its answer.

Operations divided by the card's tensor rate, or bytes divided by its bandwidth, each times the share of the data
sheet's rate that the engine reached on the measured card (`measured.py`). Other cards are assumed to reach that share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from serve_app.engine.model.quantization import Quantization
from serve_app.plan.cards import Card, card_named
from serve_app.plan.checkpoints import Checkpoint
from serve_app.plan.measured import FITTED

_MEASURED: Final = card_named(FITTED.card)


@dataclass(frozen=True, slots=True)
class RequestShape:
    """Lengths of one request, in tokens."""

    pictures: tuple[int, ...]  # tokens of each picture
    text_tokens: int
    answer_tokens: int

    @property
    def prompt_tokens(self) -> int:
        return sum(self.pictures) + self.text_tokens

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True, slots=True)
class GpuTime:
    """Seconds on one card, for one checkpoint in one weight format."""

    card: Card
    checkpoint: Checkpoint
    quantization: Quantization

    def request_s(self, request: RequestShape, prefill_tokens: int, rows: int) -> float:
        """GPU time of one request while `rows` answers are written together and other prompts wait."""
        # A piece of a prompt begins where the previous prompt ended, so a prompt touches one piece more.
        pieces = request.prompt_tokens / prefill_tokens + 1
        return self.encode_s(request) + self._read_s(request, pieces) + self.write_s(request, rows)

    def first_token_s(self, request: RequestShape, prefill_tokens: int) -> float:
        """Time to the first token of a request on an idle GPU."""
        return self.encode_s(request) + self._read_s(request, math.ceil(request.prompt_tokens / prefill_tokens))

    def encode_s(self, request: RequestShape) -> float:
        """All pictures through the vision tower."""
        share = FITTED.encode_share[self.checkpoint.family.name]
        return sum(self._compute_s(self.checkpoint.encode_operations(tokens), share) for tokens in request.pictures)

    def piece_s(self, tokens: int) -> float:
        """One prefill piece, during which no other answer gets a token."""
        return self._read_s(RequestShape((), tokens, 1), 1)

    def write_s(self, request: RequestShape, rows: int) -> float:
        """One answer's part of the steps that write it together with `rows` - 1 others."""
        length = request.prompt_tokens + request.answer_tokens / 2
        return request.answer_tokens * self.step_s(rows, length) / rows

    def step_s(self, rows: int, length: float) -> float:
        """The next token of `rows` answers, each with `length` tokens in the cache."""
        sizes = self.checkpoint.sizes
        item_bytes = sizes.cache.dtype.itemsize
        unpacking = self._unpacking_s(FITTED.unpack_row_s if rows == 1 else FITTED.unpack_rows_s)
        other_bytes = self.checkpoint.head * item_bytes + rows * length * sizes.cache.bytes_per_token
        fixed = FITTED.step_fixed_s + rows * FITTED.step_row_s
        return max(self._weights_s, unpacking) + self._transfer_s(other_bytes) + fixed

    def _read_s(self, request: RequestShape, pieces: float) -> float:
        compute = self._compute_s(self.checkpoint.prefill_operations(request.prompt_tokens), FITTED.prefill_share)
        least = max(FITTED.piece_least_s, self._weights_s)
        return max(compute, pieces * least) + pieces * self._unpacking_s(FITTED.unpack_piece_s)

    @property
    def _weights_s(self) -> float:
        """Reading the text layers' weights from memory once."""
        item_bytes = self.checkpoint.sizes.cache.dtype.itemsize if self.quantization.kind == "none" else 0.5
        return self._transfer_s(self.checkpoint.sizes.text_linear * item_bytes)

    def _unpacking_s(self, measured_s: float) -> float:
        """Unpacking of 4-bit weights, which is bound by multiprocessors and clock; 0 for unquantized weights."""
        if self.quantization.kind == "none":
            return 0.0
        size = self.checkpoint.sizes.text_linear / FITTED.text_linear
        return measured_s * size * (_MEASURED.sms * _MEASURED.clock_ghz) / (self.card.sms * self.card.clock_ghz)

    def _compute_s(self, operations: float, share: float) -> float:
        return operations / (share * self.card.tensor_tflops * 1e12)

    def _transfer_s(self, count: float) -> float:
        return count / (FITTED.bandwidth_share * self.card.bandwidth_gb_s * 1e9)
