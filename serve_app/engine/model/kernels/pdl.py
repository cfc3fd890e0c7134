"""Programmatic dependent launch: a kernel starts while the one before it ends, and waits for it.

For compute capability 9.0 and newer. Every program of a kernel that is launched so must call `wait` before it touches
what an earlier kernel wrote or reads: a kernel is complete for the next one only if all its programs have waited.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl


@functools.cache
def supported(device: torch.device) -> bool:
    """Whether a device supports programmatic dependent launch."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def options(device: torch.device) -> dict[str, bool]:
    """The launch option of a kernel that waits; none where the device has no dependent launch."""
    return {"launch_pdl": True} if supported(device) else {}


@triton.jit
def wait(PDL: tl.constexpr):
    """Let the next kernel start, and wait until the one before is complete."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
