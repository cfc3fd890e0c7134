"""Does it fit: weights, keys and values, and workspace, against the memory that the model will live in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from serve_app.doctor.report import Finding, Plan, ok, problem, sized, warning
from serve_app.engine.memory import WORKSPACE_BYTES
from serve_app.engine.model.footprint import Sizes
from serve_app.engine.model.quantization import Quantization

_LEAST_CONTEXT = 2048  # tokens that are worth serving: a picture and an answer
_CONTEXT_STEP = 256
_LARGE = 10**9  # parameters that a CPU takes seconds a token for
_SERVICE_BYTES = 3 * 2**30  # of Ray and the stages, which share the model's memory on a CPU; 2.3 GiB when idle
_NF4 = (
    (Quantization("nf4"), "--quantization nf4"),
    (Quantization("nf4", vision=True), "--quantization nf4 --quantize-vision"),
)


@dataclass(frozen=True, slots=True)
class Demand:
    """How the model is to be served, and in how much memory."""

    device: str
    quantization: Quantization
    slots: int
    context_tokens: int
    feature_bytes: int  # cache of image features
    free_bytes: int
    stored_as: str | None = None  # the method, for a checkpoint that is quantized already

    @property
    def other_bytes(self) -> int:
        return self.feature_bytes + (WORKSPACE_BYTES if self.device == "cuda" else 0)


def plan(sizes: Sizes, demand: Demand) -> Plan:
    """As many slots as are wanted and fit, at least one; whether that one fits, `Plan.fits` says."""
    weights = sizes.weight_bytes(demand.quantization)
    left = demand.free_bytes - weights - demand.other_bytes
    slots = min(demand.slots, max(1, sizes.cache.slots_that_fit(left, demand.context_tokens)))
    return Plan(
        device=demand.device,
        dtype=str(sizes.cache.dtype).removeprefix("torch."),
        quantization=demand.stored_as or demand.quantization.kind,
        slots=slots,
        context_tokens=demand.context_tokens,
        weight_bytes=weights,
        cache_bytes=slots * sizes.cache.bytes_per_token * (demand.context_tokens + 1),
        other_bytes=demand.other_bytes,
        free_bytes=demand.free_bytes,
    )


def check_fit(sizes: Sizes, demand: Demand) -> Iterator[Finding]:
    """The sum, and settings that make it smaller where it is too much."""
    planned, gpu = plan(sizes, demand), demand.device == "cuda"
    slots = "1 slot" if planned.slots == 1 else f"{planned.slots} slots"
    memory, others = ("GPU memory", "workspace and picture cache") if gpu else ("RAM", "picture cache")
    parts = (
        f"weights {sized(planned.weight_bytes)}",
        f"{slots} of {demand.context_tokens:,} tokens {sized(planned.cache_bytes)}",
        f"{others} {sized(planned.other_bytes)}",
    )
    needs = f"{sized(planned.needed_bytes)} of {sized(demand.free_bytes)} free {memory}: {', '.join(parts)}"
    if not planned.fits:
        yield problem("memory", f"not even one slot fits; it needs {needs}", _what_fits(sizes, demand))
    elif planned.slots < demand.slots:
        yield warning("memory", f"only {slots} of {demand.slots} fit, {needs}", _what_fits_all(sizes, demand))
    elif not gpu and planned.needed_bytes + _SERVICE_BYTES > demand.free_bytes:
        tight = f"and Ray with the service's own processes takes about {sized(_SERVICE_BYTES)} more: free some."
        yield warning("memory", f"tight: needs {needs}", f"It may just fit, {tight}")
    else:
        yield ok("memory", f"needs {needs}")
    if not gpu and sizes.parameters > _LARGE:
        yield warning(
            "speed",
            f"{sizes.parameters / 1e9:.1f} billion parameters on a CPU: expect seconds a token and minutes a picture",
            "Use a GPU; the demo model is the one for CPUs.",
        )


def _what_fits(sizes: Sizes, demand: Demand) -> str:
    ways = []
    if context := _context_that_fits(sizes, demand, slots=1):
        ways.append(f"--slots 1 --context {context}")
    for quantization, flags in _smaller(sizes, demand):
        planned = plan(sizes, replace(demand, quantization=quantization))
        if planned.fits:
            ways.append(f"{flags}, with {planned.slots} slots")
            break
    if ways:
        return f"What would fit: {'; or '.join(ways)}."
    least = replace(demand, slots=1, context_tokens=min(_LEAST_CONTEXT, demand.context_tokens))
    needed = min(
        plan(sizes, replace(least, quantization=quantization)).needed_bytes
        for quantization in (demand.quantization, *(quantization for quantization, _ in _smaller(sizes, demand)))
    )
    return (
        f"No setting makes it fit: the least, with one slot of {least.context_tokens:,} tokens, is {sized(needed)}."
        f" Free memory, or use a larger {'GPU' if demand.device == 'cuda' else 'machine'}."
    )


def _what_fits_all(sizes: Sizes, demand: Demand) -> str:
    ways = []
    if context := _context_that_fits(sizes, demand, demand.slots):
        ways.append(f"--context {context}")
    for quantization, flags in _smaller(sizes, demand):
        if plan(sizes, replace(demand, quantization=quantization)).slots == demand.slots:
            ways.append(flags)
            break
    unchanged = "`up` takes what fits; more requests than slots wait for their turn"
    return f"{unchanged}. For all {demand.slots} slots: {'; or '.join(ways)}." if ways else f"{unchanged}."


def _context_that_fits(sizes: Sizes, demand: Demand, slots: int) -> int:
    """The longest context, in round numbers, of so many slots; 0 if it is too short to be of use."""
    left = demand.free_bytes - sizes.weight_bytes(demand.quantization) - demand.other_bytes
    tokens = left // (slots * sizes.cache.bytes_per_token) - 1  # one is the slot's trash token
    context = min(tokens // _CONTEXT_STEP * _CONTEXT_STEP, demand.context_tokens)
    return context if context >= _LEAST_CONTEXT else 0


def _smaller(sizes: Sizes, demand: Demand) -> list[tuple[Quantization, str]]:
    """Ways to hold the weights in less memory than now."""
    now = sizes.weight_bytes(demand.quantization)
    return [(quantization, flags) for quantization, flags in _NF4 if sizes.weight_bytes(quantization) < now]
