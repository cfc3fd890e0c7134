"""From a card and a load to a plan: how weights are held, slots, context, replicas of every stage."""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass, replace
from typing import Final

from serve_app.engine.memory import WORKSPACE_BYTES
from serve_app.engine.model.quantization import Quantization
from serve_app.errors import InvalidRequest
from serve_app.plan import host
from serve_app.plan.capacity import MOST_ROWS, Operation, Replica, Request
from serve_app.plan.cards import KNOWN, Card
from serve_app.plan.checkpoints import Checkpoint
from serve_app.plan.costs import Costs
from serve_app.plan.measured import WHOLE
from serve_app.settings import EngineSettings, PreprocessSettings

DRIVER_BYTES: Final = 2**30  # CUDA's context, and what the allocator can't use; an estimate on the safe side
PEAK: Final = 1.5  # replicas may become as many as this many times the load needs
QUICK_S: Final = 2.0
PATIENCE: Final = 4.0  # where an idle card is not quick enough for that: so many times what it needs
SPARE_SLOTS: Final = 1.25  # slots beyond what the load keeps busy
# Larger chunks read prompts with less work, and hold everyone else's next token up for longer. All were measured.
_CHUNKS: Final = (1024, 2048, 4096, 8192)
_CONTEXTS: Final = (2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 98304, 131_072)
_DEFAULTS: Final = EngineSettings()
_CHUNK_BYTES: Final = 40  # of activations, for each token and each element of the hidden state; an estimate
_SPARE_CONTEXT: Final = 1.25  # for requests that are longer than the planned one

# In the order of preference: what is held whole answers as published.
_HELD: Final = (WHOLE, Quantization("nf4"), Quantization("nf4", vision=True))


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the service."""

    requests_per_s: float
    pictures: tuple[tuple[int, int], ...]  # (width, height) of each picture of a request
    prompt_tokens: int  # beside the pictures
    answer_tokens: int
    first_token_s: float | None  # for 95 of 100 requests; None: QUICK_S, or more where the card needs it


@dataclass(frozen=True, slots=True)
class Memory:
    """The card's memory, in bytes."""

    weights: int
    slot: int  # of one, with its trash token
    features: int  # cache of encoded pictures
    chunk: int  # activations of a chunk beyond those that the workspace is for
    card: int

    @property
    def left(self) -> int:
        """For slots."""
        return self.card - DRIVER_BYTES - self.weights - self.features - self.chunk - WORKSPACE_BYTES

    @property
    def slots(self) -> int:
        return max(0, self.left // self.slot)

    def used(self, slots: int) -> int:
        return self.card - self.left + slots * self.slot


@dataclass(frozen=True, slots=True)
class Plan:
    """What is deployed, and what it is based on."""

    card: Card
    load: Load
    request: Request
    replica: Replica
    memory: Memory
    context_tokens: int
    image_tokens: int  # most tokens of one picture
    slots: int
    first_token_s: float  # what was asked for, or taken
    most_per_replica: float  # requests a second
    replicas: int  # of the engine, always there
    replicas_at_peak: int
    operation: Operation  # of one replica under its share of the load
    limit: Operation  # and under all it carries
    stages: host.Stages

    @property
    def quantization(self) -> Quantization:
        return self.replica.costs.quantization


def plan(checkpoint: Checkpoint, card: Card, load: Load, quantization: str = "auto", context_tokens: int = 0) -> Plan:
    """The plan with the fewest GPUs; among equals the one that changes the weights least.

    `quantization` is auto, none or nf4; `context_tokens` 0 lets the plan choose. Raises InvalidRequest, whose
    sentence says what would do.
    """
    if checkpoint.grid is None and len(load.pictures) > 1:
        raise InvalidRequest("GLM-4V-9B sees one picture in a conversation", param="--picture")
    most = PreprocessSettings().max_image_tokens
    pictures = tuple(checkpoint.picture_tokens(width, height, most) for width, height in load.pictures)
    request = Request(pictures, load.prompt_tokens, load.answer_tokens)
    context = _context(checkpoint, request, context_tokens)
    held = [way for way in _HELD if quantization in ("auto", way.kind)]
    options = [(way, _memory(checkpoint, card, way, context)) for way in held]
    fitting = [(way, memory) for way, memory in options if memory.slots]
    # The tower decides every picture: it is packed only where nothing fits otherwise.
    fitting = [(way, memory) for way, memory in fitting if not way.vision] or fitting
    if not fitting:
        raise InvalidRequest(_does_not_fit(checkpoint, card, context, options[-1]), param="--gpu")
    candidates = [
        (Replica(Costs(card, checkpoint, way), request, chunk), memory)
        for (way, _), chunk in itertools.product(fitting, _chunks())
        if (memory := _memory(checkpoint, card, way, context, chunk)).slots
    ]
    within_s = load.first_token_s or max(QUICK_S, PATIENCE * min(replica.idle_s for replica, _ in candidates))
    plans = [
        _with(replica, memory, load, context, within_s, carried)
        for replica, memory in candidates
        if (carried := replica.most(min(memory.slots, MOST_ROWS), within_s))
    ]
    if not plans:
        raise InvalidRequest(
            _too_slow(checkpoint, card, within_s, candidates),
            param="--first-token-seconds",
        )
    return min(plans, key=lambda plan: plan.replicas)  # the first of equals: whole before packed, small chunks first


def _with(replica: Replica, memory: Memory, load: Load, context: int, within_s: float, carried: float) -> Plan:
    most_slots = min(memory.slots, MOST_ROWS)
    replicas = max(1, math.ceil(load.requests_per_s / carried))
    share = min(load.requests_per_s / replicas, carried)  # no more by a rounding
    numbers = range(1, most_slots + 1)
    enough = numbers[bisect.bisect_left(numbers, True, key=lambda slots: replica.carries(share, slots, within_s))]
    slots = min(most_slots, math.ceil(enough * SPARE_SLOTS / 4) * 4)
    operation, limit = replica.under(share), replica.under(carried)
    assert operation is not None
    assert limit is not None
    request = replica.request
    room = context - request.text_tokens - request.answer_tokens
    image_tokens = max(0, *request.pictures, room // max(1, len(request.pictures)) // 64 * 64)
    return Plan(
        card=replica.costs.card,
        load=load,
        request=request,
        replica=replica,
        memory=memory,
        context_tokens=context,
        image_tokens=image_tokens,
        slots=slots,
        first_token_s=within_s,
        most_per_replica=carried,
        replicas=replicas,
        replicas_at_peak=max(replicas, math.ceil(PEAK * load.requests_per_s / carried)),
        operation=operation,
        limit=limit,
        stages=host.stages(load.requests_per_s, load.pictures, operation.answer_s, request.answer_tokens, PEAK),
    )


def _context(checkpoint: Checkpoint, request: Request, wanted: int) -> int:
    """Slots are as long as the longest admissible request: as short as will do, for more of them."""
    longest = checkpoint.longest_context
    if request.tokens > longest:
        raise InvalidRequest(
            f"a request of {request.tokens:,} tokens, answer included, is longer than the model's {longest:,}",
            param="--prompt-tokens",
        )
    if wanted:
        if not request.tokens <= wanted <= longest:
            raise InvalidRequest(
                f"{wanted:,} has to hold the request's {request.tokens:,} tokens and be at most the model's"
                f" {longest:,}",
                param="--context",
            )
        return wanted
    return next((size for size in _CONTEXTS if _SPARE_CONTEXT * request.tokens <= size <= longest), longest)


def _chunks() -> tuple[int, ...]:
    usual = _DEFAULTS.prefill_tokens
    return (usual, *(chunk for chunk in _CHUNKS if chunk > usual))


def _memory(
    checkpoint: Checkpoint, card: Card, held: Quantization, context: int, chunk_tokens: int = _DEFAULTS.prefill_tokens
) -> Memory:
    larger = chunk_tokens - _DEFAULTS.prefill_tokens
    return Memory(
        weights=checkpoint.sizes.weight_bytes(held),
        slot=checkpoint.sizes.cache.bytes_per_token * (context + 1),
        features=_DEFAULTS.feature_cache_mib * 2**20,
        chunk=larger * _CHUNK_BYTES * checkpoint.heads_width,
        card=card.memory_bytes,
    )


def _does_not_fit(checkpoint: Checkpoint, card: Card, context: int, least: tuple[Quantization, Memory]) -> str:
    way, memory = least
    held = "whole" if way.kind == "none" else f"in {way.kind}{', vision tower too,' if way.vision else ''}"
    enough = [other for other in _by_memory() if _memory(checkpoint, other, way, context).slots]
    would = f"the smallest known card that would do is {enough[0].name}" if enough else "no known card would do"
    return (
        f"the model {held} with one slot of {context:,} tokens needs {memory.used(1) / 2**30:.1f} GiB of the"
        f" {memory.card / 2**30:.1f} GiB that {card.name} has; {would}"
    )


def _too_slow(checkpoint: Checkpoint, card: Card, within_s: float, candidates: list[tuple[Replica, Memory]]) -> str:
    fastest = min((replica for replica, _ in candidates), key=lambda replica: replica.idle_s)

    def reads_in_time(other: Card) -> bool:
        for way in _HELD:
            if _memory(checkpoint, other, way, fastest.request.tokens).slots:
                costs = replace(fastest.costs, card=other, quantization=way)
                if replace(fastest, costs=costs).idle_s < within_s / PATIENCE:
                    return True
        return False

    enough = [other for other in _by_memory() if reads_in_time(other)]
    enough_s = math.ceil(PATIENCE * fastest.idle_s)
    would = f", or a faster card such as {enough[0].name}" if enough else ""
    return (
        f"an idle {card.name} needs {fastest.idle_s:.1f} s to read such a request, and 95 of 100 first tokens are to"
        f" come within {within_s:g} s; what would do: --first-token-seconds {enough_s}, smaller"
        f" pictures{would}"
    )


def _by_memory() -> list[Card]:
    return sorted(KNOWN, key=lambda card: (card.memory_bytes, card.tensor_tflops))
