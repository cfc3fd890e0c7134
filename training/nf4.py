"""NF4 rounding of weights like bitsandbytes, for training and validation.

Blocks of 64 along the input with one absolute maximum each, which is quantized to eight bits in groups of 256 (double
quantization). Only the text layers' matrices are rounded, not lm_head and the vision tower.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@torch.no_grad()
def rounded(weight: Tensor) -> Tensor:
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    offset = largest.mean()
    spread = (largest - offset).abs().max().clamp_min(1e-12) / 127
    kept = ((largest - offset) / spread).round() * spread + offset  # eight bits, as in double quantization
    levels = torch.tensor(LEVELS, device=weight.device)
    borders = (levels[1:] + levels[:-1]) / 2
    return (levels[torch.bucketize(blocks / largest, borders)] * kept).view_as(weight)


def quantized_weights(text: nn.Module) -> list[Tensor]:
    """The parameters that the service would hold in NF4."""
    return [module.weight for module in text.modules() if isinstance(module, nn.Linear)]


@contextmanager
def rounded_weights(parameters: list[Tensor]) -> Iterator[None]:
    """A context with rounded weights; gradients apply to the original weights (straight-through estimator)."""
    original = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(rounded(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, original)
