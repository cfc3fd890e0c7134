"""Muon for weight matrices, updating matrices of one shape together; AdamW updates all other parameters.

One batched product for a stack of equal matrices takes a few milliseconds for this model; torch's own Muon updates
them one by one.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic iteration of Keller Jordan's Muon


class Muon:
    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], momentum: float = 0.95) -> None:
        self.momentum = momentum
        self.groups: dict[tuple[int, int, int], list[Tensor]] = defaultdict(list)
        for name, parameter in parameters:
            # a fused projection consists of several matrices, each of which is updated on its own
            parts = 3 if name.endswith("qkv.weight") else 2 if name.endswith("gate_up_proj.weight") else 1
            self.groups[(parts, parameter.shape[0], parameter.shape[1])].append(parameter)
        self.buffers = {shape: [torch.zeros_like(p) for p in group] for shape, group in self.groups.items()}

    @torch.no_grad()
    def step(self, rate: float, decay: float) -> None:
        for (parts, high, wide), group in self.groups.items():
            buffers = self.buffers[(parts, high, wide)]
            gradients = [parameter.grad for parameter in group if parameter.grad is not None]
            torch._foreach_mul_(buffers, self.momentum)
            torch._foreach_add_(buffers, gradients)
            ahead = torch._foreach_add(gradients, buffers, alpha=self.momentum)
            stack = torch.stack(ahead).view(-1, high // parts, wide)
            updates = _orthogonal(stack).reshape(-1, high, wide).float()
            scale = 0.2 * max(high // parts, wide) ** 0.5  # scaled to the usual size of AdamW's updates
            torch._foreach_mul_(group, 1 - rate * decay)
            torch._foreach_add_(group, list(updates.unbind(0)), alpha=-rate * scale)


def _orthogonal(stack: Tensor) -> Tensor:
    """Approximately the nearest orthogonal matrix of each, by five Newton-Schulz steps in bf16."""
    a, b, c = _COEFFICIENTS
    matrix = stack.bfloat16()
    tall = matrix.shape[-2] > matrix.shape[-1]
    if tall:
        matrix = matrix.mT
    matrix = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = matrix @ matrix.mT
        matrix = torch.baddbmm(matrix, b * gram + c * gram @ gram, matrix, beta=a)
    return matrix.mT if tall else matrix
