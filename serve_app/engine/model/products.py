"""Matrix products of the trunk: modules of a layer that read the same values become one product."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import linear

from serve_app.engine.model.fp8 import Fp8Linear, Fp8Product
from serve_app.engine.model.nf4 import Nf4Product, fits_nf4

Product = Callable[[torch.Tensor], torch.Tensor]  # (tokens, in) to (tokens, out)


def product(*linears: nn.Module) -> Product:
    """One product that gives the outputs of the modules side by side.

    Weights of plain linear layers are joined once; each module's own become views of the joined ones, so that
    the module gives the same as before and no memory is spent.
    """
    if all(isinstance(module, Fp8Linear) for module in linears):
        return Fp8Product(linears)  # type: ignore[arg-type]
    if fits_nf4(linears):
        return Nf4Product(linears)
    if all(type(module) is nn.Linear for module in linears):
        weight = _joined(linears, "weight")
        bias = _joined(linears, "bias") if linears[0].bias is not None else None
        return _WideProduct(weight, bias)
    if len(linears) == 1:
        return linears[0]
    return lambda x: torch.cat([module(x) for module in linears], dim=-1)


class _WideProduct:
    """The product with weights (outputs, inputs) in 16 or 32 bits, of a few rows by a kernel of our own."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias
        self._most_rows = 0
        if weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16):
            from serve_app.engine.model.kernels import bf16, few_rows, pdl  # imported late: Triton is for GPUs

            if pdl.supported(weight.device):
                self._kernels, self._most_rows = bf16, bf16.MOST_ROWS
                self._split = few_rows.Split(len(weight), weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) <= self._most_rows:
            return self._kernels.multiply(x, self._weight, self._bias, self._split)
        return linear(x, self._weight, self._bias)


def _joined(linears: tuple[nn.Module, ...], name: str) -> torch.Tensor:
    parts = [getattr(module, name) for module in linears]
    if len(parts) == 1:
        return parts[0]  # type: ignore[no-any-return]
    joined = torch.cat([part.data for part in parts])
    for part, view in zip(parts, joined.split([len(part) for part in parts]), strict=True):
        part.data = view
    return joined
