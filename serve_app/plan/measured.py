"""What was measured, where and how; the plan's arithmetic is fitted to these points and held to them.

To add a point: append a `Measured` to POINTS, run tests/plan/test_measured.py; if its `within` does not hold, the model
of `costs.py` or REACHED has to change, not the point. A card that has points of requests here counts as measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from serve_app.engine.model.quantization import Quantization

Figure = Literal["encode_s", "first_token_s", "step_s", "requests_per_s"]


WHOLE: Final = Quantization()
NF4: Final = Quantization("nf4")


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure on one card, and the work behind it.

    * encode_s: a picture of `picture_tokens`;
    * first_token_s: such a picture in a prompt of `prompt_tokens`, read in chunks of `chunk_tokens`, alone;
    * step_s: the next token of `rows` answers that hold `prompt_tokens` each;
    * requests_per_s: `rows` callers who ask so again and again (benchmarks/capacity.py), for `answer_tokens` each.
    """

    figure: Figure
    value: float
    within: float  # the model's prediction is at most this far off, as a share of the value
    source: str  # a file of benchmarks/results, which names its command
    model: str  # a name of checkpoints.KNOWN
    quantization: Quantization = WHOLE
    card: str = "H200"
    picture_tokens: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    chunk_tokens: int = 1024
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Reached:
    """What the engine reaches of a card's data sheet, and what is the same whatever the size; fitted to POINTS."""

    card: str
    text_linear: int  # elements of the text layers that it was measured with
    encode_share: dict[str, float]  # of the tensor rate, by model_type
    prefill_share: float  # of the tensor rate
    chunk_least_s: float  # launching its kernels one by one, from a process that passes answers on meanwhile
    unpack_chunk_s: float  # more for a chunk whose weights are 4-bit
    bandwidth_share: float
    step_fixed_s: float
    step_row_s: float
    unpack_step_s: tuple[tuple[float, float], ...]  # (rows, seconds) of the 4-bit products of a step


REACHED: Final = Reached(
    card="H200",
    text_linear=8_157_921_280,
    encode_share={"glm4v": 0.30, "chatglm": 0.547},
    prefill_share=0.44,
    chunk_least_s=0.062,
    unpack_chunk_s=0.032,
    bandwidth_share=0.75,
    step_fixed_s=0.0075,
    step_row_s=0.00007,
    unpack_step_s=((1, 0.0041), (4, 0.0137), (8, 0.0142), (64, 0.0142)),
)


def _service(
    value: float, callers: int, within: float, chunk_tokens: int = 1024, held: Quantization = WHOLE
) -> Measured:
    """A closed loop over HTTP, one NVIDIA H200, random weights in the exact shape: 1120x1120, 198 tokens of text."""
    return Measured(
        figure="requests_per_s",
        value=value,
        within=within,
        source="capacity-2026-11-21.json",
        model="glm-4.6v-flash",
        quantization=held,
        picture_tokens=1600,
        prompt_tokens=1798,
        answer_tokens=128,
        chunk_tokens=chunk_tokens,
        rows=callers,
    )


def _engine(figure: Figure, value: float, within: float, tokens: int, rows: int = 1) -> Measured:
    """The bare engine, GLM-4.1V's shape."""
    source = "engine-2026-11-21-graphs.json"
    return Measured(figure, value, within, source, "glm-4.6v-flash", WHOLE, "H200", 1600, tokens, 0, 2048, rows)


def _glm_4v_9b(
    figure: Figure, value: float, within: float, tokens: int, rows: int = 1, held: Quantization = WHOLE
) -> Measured:
    """The bare engine, GLM-4V-9B's shape."""
    source = "glm4v_9b-2026-11-21.json"
    return Measured(figure, value, within, source, "glm-4v-9b", held, "H200", 1602, tokens, 0, 1618, rows)


POINTS: Final = (
    _service(0.55, 1, 0.1),
    _service(2.12, 8, 0.2),
    _service(3.48, 32, 0.1),
    _service(3.71, 64, 0.1),
    _service(0.58, 1, 0.1, held=NF4),
    _service(1.40, 8, 0.2, held=NF4),
    _service(2.49, 32, 0.1, held=NF4),
    _service(5.05, 32, 0.1, 8192),
    _service(2.62, 8, 0.15, 2048),
    _service(4.31, 32, 0.1, 2048),
    _service(2.71, 8, 0.15, 4096),
    _service(4.98, 32, 0.1, 4096),
    _service(5.75, 64, 0.1, 8192),
    # Bare, the engine is up to a fifth quicker with small batches: nothing else uses its process.
    _engine("first_token_s", 0.1226, 0.05, 1808),
    _engine("step_s", 0.01146, 0.15, 1840),
    _engine("step_s", 0.01300, 0.05, 1840, 8),
    _engine("step_s", 0.01414, 0.15, 1840, 32),
    _glm_4v_9b("encode_s", 0.13681, 0.05, 1618),
    _glm_4v_9b("first_token_s", 0.1933, 0.05, 1618),
    _glm_4v_9b("first_token_s", 0.2205, 0.1, 1618, held=NF4),
    _glm_4v_9b("step_s", 0.01057, 0.2, 1642),
    _glm_4v_9b("step_s", 0.01186, 0.15, 1642, 8),
    _glm_4v_9b("step_s", 0.01004, 0.2, 1642, held=NF4),
    _glm_4v_9b("step_s", 0.02304, 0.05, 1642, 8, held=NF4),
)

# A core's milliseconds for a JPEG of so many pixels (benchmarks/results/preprocess-2026-11-21.json, one core of an
# AMD EPYC): from its bytes to what the model sees.
PICTURE_MS: Final = ((307_200, 4.45), (2_073_600, 16.31), (12_000_000, 146.7))

# Core time of one request in all processes it passes, and of one piece of a streamed answer
# (benchmarks/results/hops-2026-11-21.json, "direct": 515 requests/s on two cores; 100 events: 19.3 ms instead of 3.4).
REQUEST_CPU_S: Final = 2 / 515.3
EVENT_CPU_S: Final = 2 * (0.01933 - 0.00338) / 100


def is_measured(card: str, model_type: str, quantization: Quantization) -> bool:
    """Whether whole requests were measured on this card, with such a model held so."""
    return any(
        point.figure == "requests_per_s"
        and point.card == card
        and point.quantization == quantization
        and (point.model == "glm-4v-9b") == (model_type == "chatglm")
        for point in POINTS
    )
