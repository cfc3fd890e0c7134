"""Checks whether weights, KV cache and workspace fit the free memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from serve_app.doctor.report import Finding, MemoryFit, counted, ok, problem, sized, warning
from serve_app.engine.memory import WORKSPACE_BYTES, allocated_pages, wanted_pages
from serve_app.engine.model.footprint import Sizes
from serve_app.engine.model.pages import PAGE_TOKENS, pages_for
from serve_app.engine.model.quantization import Quantization

_LEAST_CONTEXT = 2048  # tokens, enough for a picture and an answer
_CONTEXT_STEP = 256
_LARGE = 10**9  # parameters with which a CPU takes seconds a token
_SERVICE_BYTES = 3 * 2**30  # of Ray and the other stages, 2.3 GiB when idle
_FORMATS = (
    (Quantization("fp8"), "--quantization fp8"),
    (Quantization("nf4"), "--quantization nf4"),
    (Quantization("nf4", vision=True), "--quantization nf4 --quantize-vision"),
)


@dataclass(frozen=True, slots=True)
class Demand:
    """The settings that decide memory, and the memory that is free."""

    device: str
    quantization: Quantization
    slots: int
    context_tokens: int
    feature_bytes: int  # cache of image features
    free_bytes: int
    stored_as: str | None = None  # the method, for a checkpoint that is quantized already
    has_pages: bool = False  # the slots share pages; else each has room for the whole context
    has_fp8: bool = False

    @property
    def other_bytes(self) -> int:
        return self.feature_bytes + (WORKSPACE_BYTES if self.device == "cuda" else 0)


def fit_slots(sizes: Sizes, demand: Demand) -> MemoryFit:
    """The memory of what the engine allocates: all pages that are wanted and fit, or as many slots.

    At least one context; `MemoryFit.fits` is False if not even that fits.
    """
    weights = sizes.weight_bytes(demand.quantization)
    left, cache, context = demand.free_bytes - weights - demand.other_bytes, sizes.cache, demand.context_tokens
    if demand.has_pages:
        slots, pages = demand.slots, allocated_pages(demand.slots, cache, context, left)
        tokens = pages * PAGE_TOKENS
    else:
        slots, pages = min(demand.slots, max(1, cache.slots_that_fit(left, context))), 0
        tokens = slots * (context + 1)
    return MemoryFit(
        device=demand.device,
        dtype=str(cache.dtype).removeprefix("torch."),
        quantization=demand.stored_as or demand.quantization.kind,
        slots=slots,
        context_tokens=context,
        weight_bytes=weights,
        cache_bytes=tokens * cache.bytes_per_token,
        other_bytes=demand.other_bytes,
        free_bytes=demand.free_bytes,
        pages=pages,
    )


def check_fit(sizes: Sizes, demand: Demand) -> Iterator[Finding]:
    """Compare needed with free memory; if it is too much, name settings that need less."""
    fit, gpu = fit_slots(sizes, demand), demand.device == "cuda"
    slots = counted(fit.slots, "slot")
    stored = f"{slots} of {demand.context_tokens:,} tokens"
    if demand.has_pages:
        stored = f"{fit.pages:,} pages of {PAGE_TOKENS} tokens"
    memory, others = ("GPU memory", "workspace and picture cache") if gpu else ("RAM", "picture cache")
    parts = (
        f"weights {sized(fit.weight_bytes)}",
        f"{stored} {sized(fit.cache_bytes)}",
        f"{others} {sized(fit.other_bytes)}",
    )
    needs = f"{sized(fit.needed_bytes)} of {sized(demand.free_bytes)} free {memory}: {', '.join(parts)}"
    if not fit.fits:
        one = f"one request of {demand.context_tokens:,} tokens" if demand.has_pages else "one slot"
        yield problem("memory", f"Not even {one} fits: it needs {needs}.", _what_fits(sizes, demand))
    elif demand.has_pages and not _has_all(fit, demand):
        at_once = counted((fit.pages - 1) // pages_for(demand.context_tokens), "request")
        each = (fit.pages - 1) // fit.slots * PAGE_TOKENS
        wanted = wanted_pages(demand.slots, demand.context_tokens)
        held = f"{at_once} of {demand.context_tokens:,} tokens at once, or {fit.slots} of {each:,}"
        seen = f"Only {fit.pages:,} of {wanted:,} pages fit, for {held}: {needs}."
        yield warning("memory", seen, _what_fits_all(sizes, demand))
    elif fit.slots < demand.slots:
        yield warning("memory", f"Only {slots} of {demand.slots} fit: {needs}.", _what_fits_all(sizes, demand))
    elif not gpu and fit.needed_bytes + _SERVICE_BYTES > demand.free_bytes:
        remedy = f"Ray and the service's other processes need about {sized(_SERVICE_BYTES)} more: free some memory."
        yield warning("memory", f"It may be too little: needs {needs}.", remedy)
    else:
        yield ok("memory", f"needs {needs}")
    if not gpu and sizes.parameters > _LARGE:
        yield warning(
            "speed",
            f"{sizes.parameters / 1e9:.1f} billion parameters on a CPU take seconds a token and minutes a picture.",
            "Use a GPU, or the demo model on a CPU.",
        )


def _has_all(fit: MemoryFit, demand: Demand) -> bool:
    """Whether all slots that are set can hold the whole context at once."""
    if demand.has_pages:
        return fit.fits and fit.pages == wanted_pages(demand.slots, demand.context_tokens)
    return fit.slots == demand.slots


def _what_fits(sizes: Sizes, demand: Demand) -> str:
    ways = []
    if context := _context_that_fits(sizes, replace(demand, slots=1)):
        ways.append(f"--context {context}" if demand.has_pages else f"--slots 1 --context {context}")
    for quantization, flags in _smaller(sizes, demand):
        fit = fit_slots(sizes, replace(demand, quantization=quantization))
        if fit.fits:
            ways.append(flags if demand.has_pages else f"{flags}, with {fit.slots} slots")
            break
    if ways:
        return f"These options would fit: {'; or '.join(ways)}."
    least = replace(demand, slots=1, context_tokens=min(_LEAST_CONTEXT, demand.context_tokens))
    needed = min(
        fit_slots(sizes, replace(least, quantization=quantization)).needed_bytes
        for quantization in (demand.quantization, *(quantization for quantization, _ in _smaller(sizes, demand)))
    )
    one = "request" if demand.has_pages else "slot"
    return (
        f"No setting fits: even one {one} of {least.context_tokens:,} tokens needs {sized(needed)}."
        f" Free memory, or use a larger {'GPU' if demand.device == 'cuda' else 'machine'}."
    )


def _what_fits_all(sizes: Sizes, demand: Demand) -> str:
    ways = []
    # Pages are reserved by the length of a request: a shorter context would not make room for more of them.
    if not demand.has_pages and (context := _context_that_fits(sizes, demand)):
        ways.append(f"--context {context}")
    for quantization, flags in _smaller(sizes, demand):
        if _has_all(fit_slots(sizes, replace(demand, quantization=quantization)), demand):
            ways.append(flags)
            break
    unchanged = f"`up` uses what fits; further requests wait for {'pages' if demand.has_pages else 'a slot'}"
    return f"{unchanged}. For all {demand.slots} slots: {'; or '.join(ways)}." if ways else f"{unchanged}."


def _context_that_fits(sizes: Sizes, demand: Demand) -> int:
    """The longest context that all slots can hold, rounded down; 0 if it is shorter than `_LEAST_CONTEXT`."""
    left = demand.free_bytes - sizes.weight_bytes(demand.quantization) - demand.other_bytes
    spare = PAGE_TOKENS if demand.has_pages else demand.slots  # the page for idle rows, or a dummy token of each slot
    tokens = (left // sizes.cache.bytes_per_token - spare) // demand.slots
    context = min(tokens // _CONTEXT_STEP * _CONTEXT_STEP, demand.context_tokens)
    return context if context >= _LEAST_CONTEXT else 0


def _smaller(sizes: Sizes, demand: Demand) -> list[tuple[Quantization, str]]:
    """Weight formats that need less memory than the set one, with their options."""
    now = sizes.weight_bytes(demand.quantization)
    return [
        (quantization, flags)
        for quantization, flags in _FORMATS
        if sizes.weight_bytes(quantization) < now and (demand.has_fp8 or quantization.kind != "fp8")
    ]
