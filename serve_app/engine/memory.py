"""Device memory: how many slots fit beside the weights, and gauges of what is in use."""

from __future__ import annotations

import logging

import torch

from serve_app import metrics
from serve_app.engine.model.slots import CacheShape
from serve_app.errors import InvalidRequest

log = logging.getLogger("glm.engine")

WORKSPACE_BYTES = 3 * 2**29  # activations of the largest picture and of one prefill chunk: 1.5 GiB


def plan_slots(wanted: int, shape: CacheShape, context_tokens: int, reserved_bytes: int, device: torch.device) -> int:
    """Slots to allocate: as many as wanted, fewer if the GPU's free memory holds no more.

    `reserved_bytes` is what others (the feature cache) will take; a workspace is left free as well.
    """
    if device.type != "cuda":
        return wanted
    free, total = torch.cuda.mem_get_info(device)
    fitting = shape.slots_that_fit(free - reserved_bytes - WORKSPACE_BYTES, context_tokens)
    if fitting < 1:
        slot = shape.bytes_per_token * context_tokens
        raise InvalidRequest(
            f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free beside the weights; one slot of {context_tokens} "
            f"tokens takes {slot / 2**30:.1f} GiB and the workspace {WORKSPACE_BYTES / 2**30:.1f}: "
            "lower model.context_tokens or set model.quantization to nf4",
            param="model.context_tokens",
        )
    if fitting < wanted:
        log.warning("%d of %d slots of %d tokens fit in this GPU's memory", fitting, wanted, context_tokens)
    return min(wanted, fitting)


def measure_memory(meter: metrics.Meter, device: torch.device) -> None:
    """Set the memory gauges of this replica; all zero on a CPU."""
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
