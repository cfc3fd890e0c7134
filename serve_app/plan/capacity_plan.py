"""Chooses weight format, context, requests at once and replicas for a card and a load."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch

from serve_app.engine.memory import WORKSPACE_BYTES, allocated_pages, sequences_that_fit
from serve_app.engine.model.pages import PAGE_TOKENS
from serve_app.engine.model.quantization import Quantization
from serve_app.engine.model.slots import CacheShape
from serve_app.errors import InvalidRequest
from serve_app.plan.cards import KNOWN, Card
from serve_app.plan.checkpoints import Checkpoint
from serve_app.plan.cpu_stages import CpuStages, cpu_stages
from serve_app.plan.gpu_time import GpuTime, RequestShape
from serve_app.settings import EngineSettings, PreprocessSettings

DRIVER_BYTES: Final = 2**30  # CUDA's context and what the allocator can't use; a safe estimate
MEMORY_USE: Final = 0.94  # of a card: the chart's alert GlmGpuMemoryHigh fires above 0.95
GPU_USE: Final = 0.75  # of what a GPU can do at most; nearer to it, waiting times grow without bound
PEAK: Final = 1.5  # the autoscaler may start as many replicas as this many times the load needs
MOST_SLOTS: Final = 64  # with more slots no higher rate was measured
ENOUGH_SLOTS: Final = 8  # with fewer, weights are quantized
FIRST_TOKEN_S: Final = 5  # the chart's default of monitoring.prometheusRule.firstTokenSeconds
_WAIT: Final = 4  # times the first token of an idle GPU: waiting in a queue is usual under load
_CONTEXTS: Final = (2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 98304, 131_072)
_SPARE_CONTEXT: Final = 1.25  # for requests that are longer than the planned one
_DEFAULTS: Final = EngineSettings()
_WEIGHT_FORMATS: Final = (  # first choice first
    Quantization(),
    Quantization("fp8"),
    Quantization("nf4"),
    Quantization("nf4", vision=True),
)


@dataclass(frozen=True, slots=True)
class Load:
    """The requests that the service has to answer."""

    requests_per_s: float
    pictures: tuple[tuple[int, int], ...]  # (width, height) in pixels of each picture of a request
    text_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class CardMemory:
    """How a card's memory is divided, in bytes, counted by the functions of the engine."""

    weights: int
    other: int  # picture cache, workspace, driver
    card: int
    cache: CacheShape
    request_tokens: int  # prompt and answer: for so many the engine reserves pages
    context_tokens: int
    has_pages: bool  # False: slots of the whole context

    @property
    def slots(self) -> int:
        """Requests at once in the planned share of the card."""
        free = int(MEMORY_USE * self.card) - self.weights - self.other
        if not self.has_pages:
            return max(0, self.cache.slots_that_fit(free, self.context_tokens))
        return sequences_that_fit(free, self.cache, self.request_tokens, self.context_tokens)

    def pages(self, slots: int) -> int:
        """Pages that the engine allocates for so many slots: enough for the context of each, or all that fit."""
        return allocated_pages(slots, self.cache, self.context_tokens, self.card - self.weights - self.other)

    def cache_bytes(self, slots: int) -> int:
        """Keys and values as the engine allocates them at the start."""
        tokens = self.pages(slots) * PAGE_TOKENS if self.has_pages else slots * (self.context_tokens + 1)
        return tokens * self.cache.bytes_per_token

    def used(self, slots: int) -> int:
        return self.weights + self.other + self.cache_bytes(slots)


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """What to deploy, and the figures it is based on."""

    load: Load
    request: RequestShape
    gpu_time: GpuTime
    memory: CardMemory
    context_tokens: int
    image_tokens: int  # most tokens of one picture
    slots: int  # requests at once
    replicas: int
    replicas_at_peak: int
    cpu_stages: CpuStages
    first_token_s: float  # limit of the alert on the time to the first token

    @property
    def request_s(self) -> float:
        """GPU seconds of one request with all slots in use."""
        return self.gpu_time.request_s(self.request, self.slots)

    @property
    def requests_per_s(self) -> float:
        """Load that one GPU is given."""
        return GPU_USE / self.request_s

    @property
    def waiting_requests(self) -> int:
        """Requests that one replica begins to answer within `first_token_s`: with more in its queue it is missed."""
        return math.ceil(self.requests_per_s * self.first_token_s)

    @property
    def tokens_in_flight(self) -> float:
        """Mean of unread prompt tokens and unwritten answer tokens of a replica at `requests_per_s` (Little's law)."""
        request = self.request
        write_s = request.answer_tokens * self.gpu_time.step_s(self.slots, request.tokens)
        read_s = self.gpu_time.first_token_s(request)
        return self.requests_per_s * (write_s * request.answer_tokens / 2 + 2 * read_s * request.tokens)


def plan_capacity(
    checkpoint: Checkpoint,
    card: Card,
    load: Load,
    quantization: str = "auto",
    context_tokens: int = 0,
    gpus: int = 0,
    first_token_s: float = 0,
) -> CapacityPlan:
    """Plan a card and a load, or with `gpus` the load that so many cards can be given (its rate in `load` is ignored).

    `quantization` is auto, none, fp8 or nf4; `context_tokens` and `first_token_s` 0 let the plan choose. Raises
    InvalidRequest if the model does not fit the card or the request does not fit the model.
    """
    allowed = checkpoint.family.max_pictures
    if allowed is not None and len(load.pictures) > allowed:
        name = checkpoint.family.checkpoints[0]
        raise InvalidRequest(f"{name} takes at most {allowed} picture in a conversation.", param="--picture")
    most = PreprocessSettings().max_image_tokens
    pictures = tuple(checkpoint.picture_tokens(width, height, most) for width, height in load.pictures)
    request = RequestShape(pictures, load.text_tokens, load.answer_tokens)
    context = _context(checkpoint, request, context_tokens)
    gpu_time, memory = _weight_format(checkpoint, card, quantization, request.tokens, context)
    slots = min(MOST_SLOTS, memory.slots)
    requests_per_s = GPU_USE / gpu_time.request_s(request, slots)
    if gpus:
        load = replace(load, requests_per_s=gpus * requests_per_s)
    peak = load.requests_per_s if gpus else PEAK * load.requests_per_s
    replicas = gpus or math.ceil(load.requests_per_s / requests_per_s)
    idle_s = gpu_time.first_token_s(request)
    tokens_left = (context - request.text_tokens - request.answer_tokens) // max(1, len(pictures))
    return CapacityPlan(
        load=load,
        request=request,
        gpu_time=gpu_time,
        memory=memory,
        context_tokens=context,
        image_tokens=max(0, *pictures, tokens_left // 64 * 64),
        slots=slots,
        replicas=replicas,
        replicas_at_peak=gpus or math.ceil(peak / requests_per_s),
        cpu_stages=cpu_stages(
            load.requests_per_s, peak, load.pictures, load.answer_tokens, least=2 if replicas > 1 else 1
        ),
        first_token_s=first_token_s or max(FIRST_TOKEN_S, math.ceil(_WAIT * idle_s)),
    )


def _context(checkpoint: Checkpoint, request: RequestShape, wanted: int) -> int:
    """The shortest usual context that holds the request with a margin."""
    longest = checkpoint.longest_context
    if request.tokens > longest:
        raise InvalidRequest(
            f"The request has {request.tokens:,} tokens with its answer; the model takes at most {longest:,}.",
            param="--prompt-tokens",
        )
    if wanted and not request.tokens <= wanted <= longest:
        raise InvalidRequest(
            f"A context of {wanted:,} tokens is impossible: the request has {request.tokens:,} tokens with its answer,"
            f" and the model takes at most {longest:,}.",
            param="--context",
        )
    return wanted or next((size for size in _CONTEXTS if _SPARE_CONTEXT * request.tokens <= size <= longest), longest)


def _weight_format(
    checkpoint: Checkpoint, card: Card, quantization: str, request_tokens: int, context: int
) -> tuple[GpuTime, CardMemory]:
    """The first weight format that leaves enough requests at once, or else the one that leaves most."""

    def memory_of(kind: Quantization, of: Card) -> CardMemory:
        other = _DEFAULTS.feature_cache_mib * 2**20 + WORKSPACE_BYTES + DRIVER_BYTES
        sizes = checkpoint.sizes
        return CardMemory(
            sizes.weight_bytes(kind), other, of.memory_bytes, sizes.cache, request_tokens, context, of.has_pages
        )

    def runs(kind: Quantization, on: Card) -> bool:
        """By the rules of `Quantization.check_device`."""
        return kind.kind != "fp8" or (on.fp8 and checkpoint.sizes.cache.dtype == torch.bfloat16)

    wanted = [kind for kind in _WEIGHT_FORMATS if quantization in ("auto", kind.kind)]
    options = [(kind, memory_of(kind, card)) for kind in wanted if runs(kind, card)]
    if not options:
        raise InvalidRequest(
            f"The format {quantization} needs a GPU of compute capability 8.9 or newer, such as L4, RTX 4090 or H100,"
            f" and a model that computes in bfloat16; {card.name} has {card.capability[0]}.{card.capability[1]}.",
            param="--quantization",
        )
    if not any(memory.slots for _, memory in options):
        kind, memory = options[-1]
        larger = sorted(KNOWN, key=lambda other: (other.memory_bytes, other.tensor_tflops))
        names = [other.name for other in larger if runs(kind, other) and memory_of(kind, other).slots]
        raise InvalidRequest(
            f"The model ({format_name(kind)}) with one request of {context:,} tokens needs"
            f" {memory.used(1) / 2**30:.1f} GiB; {MEMORY_USE:.0%} of {card.name} are"
            f" {MEMORY_USE * memory.card / 2**30:.1f} GiB."
            + (f" The smallest known card that holds it is {names[0]}." if names else " No known card holds it."),
            param="--gpu",
        )
    enough = [option for option in options if option[1].slots >= ENOUGH_SLOTS]
    kind, memory = enough[0] if enough else max(options, key=lambda option: option[1].slots)
    return GpuTime(card, checkpoint, kind), memory


def format_name(kind: Quantization) -> str:
    """How a weight format is named to the user."""
    if kind.kind == "none":
        return "unquantized weights"
    return f"{kind.kind} weights{', vision tower included' if kind.vision else ''}"
