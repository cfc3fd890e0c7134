"""Copies small values to a device and back without a wait for its running computations."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def to_device(
    values: Sequence[int] | Sequence[float] | Sequence[tuple[int, int]], device: torch.device
) -> torch.Tensor:
    """A tensor of the values; on a GPU by way of page-locked memory, since any other copy waits for the stream."""
    if device.type != "cuda":
        return torch.tensor(values, device=device)
    return torch.tensor(values).pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A tensor that is being copied from a device to the host."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._tensor = tensor
        if tensor.is_cuda:
            self._tensor = tensor.to("cpu", non_blocking=True)  # into page-locked memory
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record()

    def read(self) -> torch.Tensor:
        """The values, once they have arrived."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensor
