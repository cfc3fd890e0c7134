"""Estimates the GPU time of a request: encoding its pictures, reading its prompt, writing its answer.

Operations divided by the card's tensor rate, or bytes divided by its bandwidth, each times the share of the data
sheet's rate that the engine reached on the measured card (`measured.py`). Other cards are assumed to reach that share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from serve_app.engine.loop import BUDGETS_WITHOUT_DECODING
from serve_app.engine.model.quantization import Quantization
from serve_app.plan.cards import Card, card_named
from serve_app.plan.checkpoints import Checkpoint
from serve_app.plan.measured import FITTED
from serve_app.settings import EngineSettings

PIECE_TOKENS: Final = EngineSettings().prefill_tokens  # larger pieces were not measured over HTTP with this engine
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

    def request_s(self, request: RequestShape, rows: int) -> float:
        """GPU time of one request while `rows` answers are written together and other prompts wait."""
        # A step takes prompts of several requests up to the budget, so a prompt counts for parts of pieces.
        pieces = request.prompt_tokens / PIECE_TOKENS
        return self.encode_s(request) + self._read_s(request, pieces) + self.write_s(request, rows)

    def first_token_s(self, request: RequestShape) -> float:
        """Time to the first token of a request on an idle GPU, where a piece may be several times as long."""
        pieces = math.ceil(request.prompt_tokens / (PIECE_TOKENS * BUDGETS_WITHOUT_DECODING))
        return self.encode_s(request) + self._read_s(request, pieces)

    def encode_s(self, request: RequestShape) -> float:
        """All pictures through the vision tower."""
        operations = sum(self.checkpoint.encode_operations(tokens) for tokens in request.pictures)
        return self._compute_s(operations, FITTED.encode_share)

    def write_s(self, request: RequestShape, rows: int) -> float:
        """One answer's part of the steps that write it together with `rows` - 1 others."""
        length = request.prompt_tokens + request.answer_tokens / 2
        return request.answer_tokens * self.step_s(rows, length) / rows

    def step_s(self, rows: int, length: float) -> float:
        """The next token of `rows` answers, each with `length` tokens in the cache."""
        sizes = self.checkpoint.sizes
        unpacking = self._unpacking_s(FITTED.unpack_row_s if rows == 1 else FITTED.unpack_s)
        other_bytes = self.checkpoint.head * sizes.cache.dtype.itemsize + rows * length * sizes.cache.bytes_per_token
        fixed = FITTED.step_fixed_s + (FITTED.fp8_step_s if self.quantization.kind == "fp8" else 0.0)
        return self._over_slots(max(self._weights_s, unpacking) + self._transfer_s(other_bytes) + fixed)

    def _read_s(self, request: RequestShape, pieces: float) -> float:
        share = FITTED.prefill_share * (FITTED.fp8_prefill_factor if self.quantization.kind == "fp8" else 1.0)
        compute = self._compute_s(self.checkpoint.prefill_operations(request.prompt_tokens), share)
        least = self._weights_s if self.card.captures_pieces else max(self._weights_s, FITTED.launched_piece_s)
        return max(compute, pieces * self._over_slots(least)) + pieces * self._unpacking_s(FITTED.unpack_s)

    @property
    def _weights_s(self) -> float:
        """Reading the text layers' weights from memory once."""
        return self._transfer_s(self.checkpoint.sizes.text_bytes(self.quantization))

    def _unpacking_s(self, measured_s: float) -> float:
        """Unpacking of 4-bit weights, which is bound by multiprocessors and clock; 0 for other formats."""
        if self.quantization.kind != "nf4":
            return 0.0
        size = self.checkpoint.sizes.text_linear / FITTED.text_linear
        return measured_s * size * (_MEASURED.sms * _MEASURED.clock_ghz) / (self.card.sms * self.card.clock_ghz)

    def _compute_s(self, operations: float, share: float) -> float:
        return self._over_slots(operations / (share * self.card.tensor_tflops * 1e12))

    def _transfer_s(self, count: float) -> float:
        return count / (FITTED.bandwidth_share * self.card.bandwidth_gb_s * 1e9)

    def _over_slots(self, seconds: float) -> float:
        """Longer where the engine runs over slots with the library's modules."""
        return seconds if self.card.has_pages else FITTED.slots_factor * seconds
