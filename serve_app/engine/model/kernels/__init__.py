"""Kernels: the trunk's operations besides its products, in Triton for GPUs and in plain torch."""

from __future__ import annotations

from types import ModuleType

import torch


def kernels_for(device: torch.device) -> ModuleType:
    """`fused` on a CUDA device, else `plain`; both have the same functions."""
    if device.type == "cuda":
        from serve_app.engine.model.kernels import fused  # imported late: a CPU installation has no Triton

        return fused
    from serve_app.engine.model.kernels import plain

    return plain
