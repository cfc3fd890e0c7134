"""NF4 weights on a GPU: bitsandbytes' layers multiplied by kernels of our own, several layers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

_GROUP = 64  # weights with one scale


class Nf4Product:
    """The outputs of bitsandbytes' `Linear4bit` layers with the same input side by side, on a GPU.

    The layers' weights become rows of one tensor, and their scales float32; the layers still work. Up to
    64 rows the product reads the weights in 4 bits; for more, they are expanded to 16 bits for cuBLAS.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        """`layers` are those for which `fits_nf4` is true."""
        from serve_app.engine.model.kernels import few_rows, nf4  # imported late: Triton is for GPUs

        self._kernels, self._most_rows = nf4, few_rows.MOST_ROWS
        outputs, inputs = [layer.out_features for layer in layers], layers[0].in_features
        self._packed = torch.cat([layer.weight.data.view(-1, inputs // 2) for layer in layers])
        self._scales = torch.cat([_scales(layer.weight.quant_state).view(-1, inputs // _GROUP) for layer in layers])
        for layer, packed, scales in zip(layers, self._packed.split(outputs), self._scales.split(outputs), strict=True):
            _share(layer, packed, scales)
        biases = [layer.bias.data for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._table = layers[0].weight.quant_state.code.to(layers[0].compute_dtype)
        self._registers = nf4.table_registers(self._table)
        self._split = few_rows.Split(sum(outputs), self._packed.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, inputs) in the layers' compute type to (rows, outputs of all layers)."""
        form = self._packed, self._scales, self._table, self._registers
        if len(x) <= self._most_rows:
            return self._kernels.multiply(x, *form, self._bias, self._split)
        return linear(x, self._kernels.dequantize(*form), self._bias)


def fits_nf4(layers: Sequence[Any]) -> bool:
    """Whether layers are bitsandbytes' `Linear4bit` in the form that the kernels read, on a GPU that runs them."""
    return all(type(layer).__name__ == "Linear4bit" and _fits(layer, layers[0]) for layer in layers)


def expand_scales(network: nn.Module) -> None:
    """Expand the scales of all layers that the kernels will read, before memory is planned.

    They take 0.5 bits a weight then, not 0.13.
    """
    layers: list[Any] = list(network.modules())
    for layer in layers:
        if fits_nf4([layer]):
            _share(layer, layer.weight.data, _scales(layer.weight.quant_state))


def _fits(layer: Any, first: Any) -> bool:
    weight, state = layer.weight, layer.weight.quant_state
    return (
        weight.is_cuda
        and torch.cuda.get_device_capability(weight.device) >= (8, 0)
        and (state.quant_type, state.blocksize, weight.dtype) == ("nf4", _GROUP, torch.uint8)
        and layer.in_features % _GROUP == 0
        and layer.compute_dtype in (torch.bfloat16, torch.float16)
        and (layer.bias is None) == (first.bias is None)
    )


def _share(layer: Any, packed: torch.Tensor, scales: torch.Tensor) -> None:
    """Let a layer of bitsandbytes use these weights and float32 scales."""
    layer.weight.data = packed.view(-1, 1)
    state = layer.weight.quant_state
    state.absmax, state.nested, state.state2, state.offset = scales.view(-1), False, None, None


def _scales(state: Any) -> torch.Tensor:
    """The float32 scale of each 64 weights, expanded if it is quantized itself."""
    if not state.nested:
        return state.absmax.float()  # type: ignore[no-any-return]
    from bitsandbytes.functional import dequantize_blockwise  # imported late: it looks for a GPU

    return (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()  # type: ignore[no-any-return]
