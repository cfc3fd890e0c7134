"""Constants that were fitted to measurements on one card, and CPU times that were measured.

tests/plan/test_measured.py compares the estimates of `gpu_time.py` with every measurement, and names their files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serve_app.engine.model.quantization import Quantization


@dataclass(frozen=True, slots=True)
class Fitted:
    """The shares of a card's data sheet that the engine reaches, and constant times."""

    card: str
    text_linear: int  # elements of the text layers that were measured
    encode_share: float  # of the tensor rate
    prefill_share: float  # of the tensor rate
    fp8_prefill_factor: float  # prompts with FP8 weights are computed so many times as fast
    launched_piece_s: float  # least time of a piece of a prompt where its kernels are launched one by one
    bandwidth_share: float
    step_fixed_s: float  # of a decode step, besides reading weights and cache
    fp8_step_s: float  # added to a step with FP8 weights: the inputs of each product are rounded
    unpack_row_s: float  # the 4-bit products of a step of one row
    unpack_s: float  # and of more rows; also added to a piece of a prompt, for which weights are expanded to 16 bits
    slots_factor: float  # over slots instead of pages everything takes so many times as long


FITTED: Final = Fitted(
    card="H200",
    text_linear=8_157_921_280,
    encode_share=0.50,
    prefill_share=0.62,
    fp8_prefill_factor=1.45,
    launched_piece_s=0.0285,  # three times 9.5 ms of the host, because other threads send events (docs/gpu-engine.md)
    bandwidth_share=0.82,
    step_fixed_s=0.00075,
    fp8_step_s=0.0005,
    unpack_row_s=0.0037,
    unpack_s=0.0052,
    slots_factor=2.0,  # 2026-11-21, with the library's modules: 1.5 for a first token, 2.2 for a step
)

# (card, family, weight format) whose requests per second were measured with benchmarks/capacity.py
_REQUESTS_MEASURED: Final = {("H200", "glm4v", "none"), ("H200", "glm4v", "fp8")}

# (pixels, milliseconds of one core of an AMD EPYC) for a JPEG, from its bytes to the model's input
# (benchmarks/results/preprocess-2026-11-21.json).
PICTURE_MS: Final = ((307_200, 4.45), (2_073_600, 16.31), (12_000_000, 146.7))

# CPU seconds of a request in the ingress, of each event of its streamed answer there, and in preprocess beside its
# pictures. The first two are those of docs/capacity.md; together they give the cores that processes of the service took
# beside one and two H200 (benchmarks/results/capacity-2026-11-30-2-gpus.json).
INGRESS_CPU_S: Final = 0.009
EVENT_CPU_S: Final = 0.00018
PREPROCESS_CPU_S: Final = 0.012

# (GPUs of one host, requests per second over those of one GPU), from `benchmarks.capacity --gpus`.
# docs/capacity_table.py writes a table of the results into docs/capacity.md.
GPUS_MEASURED: Final[tuple[tuple[int, float], ...]] = ((2, 1.981),)


def is_measured(card: str, family: str, quantization: Quantization) -> bool:
    """Whether requests per second were measured on this card with such a model in this weight format."""
    return not quantization.vision and (card, family, quantization.kind) in _REQUESTS_MEASURED
