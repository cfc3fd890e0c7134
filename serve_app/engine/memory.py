"""Device memory: the KV-cache slots or pages that fit beside the weights, and memory gauges."""

from __future__ import annotations

import logging

import torch

from serve_app import metrics
from serve_app.engine.model.pages import PAGE_TOKENS, pages_for
from serve_app.engine.model.slots import CacheShape
from serve_app.errors import InvalidRequest

log = logging.getLogger("glm.engine")

WORKSPACE_BYTES = 2**31  # graphs, cuBLAS, sampling, and the activations of a large picture and of one chunk: 2 GiB
# cuBLAS says "not initialized" when there is no memory for its handle.
_OUT_OF_MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")


def plan_pages(slots: int, shape: CacheShape, context_tokens: int, reserved_bytes: int, device: torch.device) -> int:
    """Pages of the KV cache: enough for `slots` sequences of `context_tokens`, fewer if the GPU holds no more.

    `reserved_bytes` is what the feature cache will take; a workspace is left free as well. Raises InvalidRequest
    if not even one such sequence fits.
    """
    wanted = wanted_pages(slots, context_tokens)
    if device.type != "cuda":
        return wanted
    free, total = torch.cuda.mem_get_info(device)
    left = free - reserved_bytes - WORKSPACE_BYTES
    if not sequences_that_fit(left, shape, context_tokens, context_tokens):
        raise _too_little_memory(free, total, shape, context_tokens)
    pages = allocated_pages(slots, shape, context_tokens, left)
    if pages < wanted:
        log.warning("The KV cache has %d of %d pages, because no more fit in the memory of this GPU.", pages, wanted)
    return pages


def wanted_pages(slots: int, context_tokens: int) -> int:
    """Pages with which all slots can hold sequences of `context_tokens`; page 0 is for idle rows."""
    return slots * pages_for(context_tokens) + 1


def allocated_pages(slots: int, shape: CacheShape, context_tokens: int, free_bytes: int) -> int:
    """Pages that the engine allocates in so much memory: what it wants, or fewer, but one context at least."""
    fitting = _pages_that_fit(free_bytes, shape)
    return min(wanted_pages(slots, context_tokens), max(fitting, wanted_pages(1, context_tokens)))


def sequences_that_fit(free_bytes: int, shape: CacheShape, tokens: int, context_tokens: int) -> int:
    """Sequences of `tokens` (prompt and max_tokens) that run at once over pages in so much memory.

    0 if one sequence of `context_tokens` does not fit: the engine does not start then.
    """
    pages = _pages_that_fit(free_bytes, shape)
    return (pages - 1) // pages_for(tokens) if pages >= wanted_pages(1, context_tokens) else 0


def _pages_that_fit(free_bytes: int, shape: CacheShape) -> int:
    return free_bytes // (shape.bytes_per_token * PAGE_TOKENS)


def plan_slots(wanted: int, shape: CacheShape, context_tokens: int, reserved_bytes: int, device: torch.device) -> int:
    """Slots to allocate: `wanted`, or fewer if they do not fit in the free memory of the GPU.

    `reserved_bytes` is for the feature cache; a workspace is left free as well. Raises InvalidRequest if no slot fits.
    """
    if device.type != "cuda":
        return wanted
    free, total = torch.cuda.mem_get_info(device)
    fitting = shape.slots_that_fit(free - reserved_bytes - WORKSPACE_BYTES, context_tokens)
    if fitting < 1:
        raise _too_little_memory(free, total, shape, context_tokens)
    if fitting < wanted:
        log.warning("Only %d of %d slots of %d tokens fit in the memory of this GPU.", fitting, wanted, context_tokens)
    return min(wanted, fitting)


def _too_little_memory(free: int, total: int, shape: CacheShape, context_tokens: int) -> InvalidRequest:
    slot = shape.bytes_per_token * context_tokens
    return InvalidRequest(
        f"{free / 2**30:.1f} GiB of {total / 2**30:.1f} GiB are free beside the weights. "
        f"One sequence of {context_tokens} tokens takes {slot / 2**30:.1f} GiB and the workspace "
        f"{WORKSPACE_BYTES / 2**30:.1f} GiB. Lower model.context_tokens, or set model.quantization to fp8 or nf4.",
        param="model.context_tokens",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory; cuBLAS, Triton and the driver have no error class of their own."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY_WORDS)


def measure_memory(meter: metrics.Meter, device: torch.device) -> None:
    """Set the memory gauges of this replica; they are zero on a CPU."""
    allocated = reserved = peak = used = total = 0
    if device.type == "cuda":
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        peak = torch.cuda.max_memory_allocated(device)
        free, total = torch.cuda.mem_get_info(device)
        used = total - free
    meter.set(metrics.VRAM_ALLOCATED, allocated)
    meter.set(metrics.VRAM_RESERVED, reserved)
    meter.set(metrics.VRAM_PEAK, peak)
    meter.set(metrics.VRAM_DEVICE_USED, used)
    meter.set(metrics.VRAM_DEVICE_TOTAL, total)
