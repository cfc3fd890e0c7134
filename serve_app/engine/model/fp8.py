"""Weights in 8-bit floating point: a scale for each output, activations rounded at each product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

_LARGEST = 448.0  # of float8_e4m3fn
_MULTIPLE = 16  # both sides of a weight must be multiples of it for torch._scaled_mm


class Fp8Linear(nn.Module):
    """A linear layer whose weight (outputs, inputs) is float8_e4m3fn with a float32 scale (outputs, 1)."""

    def __init__(self, in_features: int, out_features: int, bias: bool, device: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        weight = torch.empty(out_features, in_features, dtype=torch.float8_e4m3fn, device=device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.empty(out_features, 1, device=device), persistent=False)
        self.bias = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False) if bias else None
        self._product: Fp8Product | None = None

    def quantize(self, weight: torch.Tensor) -> None:
        """Take a weight (outputs, inputs) in 16 or 32 bits, on the device where it stays."""
        rounded, self.scale = quantize_rows(weight)
        self.weight = nn.Parameter(rounded, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._product is None:
            self._product = Fp8Product([self])
        rows = x.reshape(-1, self.in_features)
        return self._product(rows).view(*x.shape[:-1], self.out_features)


class Fp8Product:
    """The outputs of `Fp8Linear` layers with the same input side by side, (rows, inputs) to (rows, outputs).

    The layers' weights become rows of one tensor. On a GPU the inputs are rounded with a scale for each
    row (W8A8, dynamic); up to 64 rows by a kernel of our own, which takes two thirds of the time that
    `torch._scaled_mm` does. On a CPU the same numbers are multiplied in float32: that is for tests.
    """

    def __init__(self, layers: Sequence[Fp8Linear]) -> None:
        outputs = [layer.out_features for layer in layers]
        self._weight = torch.cat([layer.weight.data for layer in layers]) if len(layers) > 1 else layers[0].weight.data
        self._scale = torch.cat([layer.scale for layer in layers])
        for layer, part in zip(layers, self._weight.split(outputs), strict=True):
            layer.weight.data, layer._product = part, None
        biases = [layer.bias.data for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._split: Any = None
        if self._weight.is_cuda:
            from serve_app.engine.model.kernels import few_rows, fp8  # imported late: Triton is for GPUs

            self._kernels, self._most_rows = fp8, few_rows.MOST_ROWS
            self._split = few_rows.Split(sum(outputs), self._weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rounded, scales = quantize_rows(x)
        if self._split is None:
            product = linear(rounded.float() * scales, self._weight.float() * self._scale).to(x.dtype)
            return product if self._bias is None else product + self._bias
        if len(x) <= self._most_rows:
            form = self._weight, self._scale, self._bias
            return self._kernels.multiply(rounded, scales, *form, self._split, x.dtype)
        # Fast accumulation (14 bits) takes 16 % less time at 1,808 rows, and loses up to 18 % of large sums.
        return torch._scaled_mm(
            rounded, self._weight.t(), scales, self._scale.t(), bias=self._bias, out_dtype=x.dtype, use_fast_accum=False
        )


def fits_fp8(layer: nn.Linear) -> bool:
    """Whether a layer has sizes that products in FP8 take."""
    return layer.in_features % _MULTIPLE == 0 and layer.out_features % _MULTIPLE == 0


def quantize_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8_e4m3fn (rows, columns) and float32 scales (rows, 1); the largest value of a row becomes 448."""
    if values.is_cuda:
        from serve_app.engine.model.kernels import fp8  # imported late: Triton is for GPUs

        return fp8.quantize_rows(values)
    scales = values.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / _LARGEST
    return (values.float() / scales).to(torch.float8_e4m3fn), scales
