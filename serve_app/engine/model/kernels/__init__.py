"""Kernels: the trunk's operations besides its products, in Triton for GPUs and in plain torch."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

log = logging.getLogger("glm.engine")

LEAST_CAPABILITY = (8, 0)  # of a GPU that runs the Triton kernels


def kernels_for(device: torch.device) -> ModuleType:
    """`fused` on a CUDA device, else `plain`; both have the same functions."""
    if device.type == "cuda":
        from serve_app.engine.model.kernels import fused  # imported late: a CPU installation has no Triton

        return fused
    from serve_app.engine.model.kernels import plain

    return plain


@functools.cache
def available(device: torch.device) -> bool:
    """Whether the Triton kernels run on a device: compute capability 8.0 or newer, and Triton can build.

    Triton needs a C compiler once, for its driver module. Without one the library's modules compute.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return False
    try:
        from triton import knobs  # imported late: a CPU installation has no Triton

        choose_cache(knobs.cache)
        kernels_for(device).silu_mul(torch.ones(1, 16, device=device))
    except Exception as error:
        log.warning(
            "Triton cannot build kernels here (%s). The library's modules run instead, at half the speed.", error
        )
        return False
    return True


def choose_cache(cache: Any) -> None:
    """Replace `cache.dir`, Triton's folder of compiled kernels, if it can't be written: Triton would fail."""
    folder = Path(cache.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        cache.dir = tempfile.mkdtemp(prefix="triton-")
        log.warning("%s can't be written (TRITON_CACHE_DIR). Kernels are compiled again at each start.", folder)
