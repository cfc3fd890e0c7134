"""Products over bitsandbytes' NF4 weights by kernels of our own give what bitsandbytes' dequantized weights give."""

from typing import Any

import pytest
import torch
from torch.nn.functional import linear

pytest.importorskip("triton")
bitsandbytes = pytest.importorskip("bitsandbytes")

from serve_app.engine.model.nf4 import Nf4Product  # noqa: E402


def layers(*outputs: int, inputs: int = 192, bias: bool = False) -> list[Any]:
    """bitsandbytes' layers with random weights, their scales quantized too, and the 16-bit weights they stand for."""
    made = []
    for seed, size in enumerate(outputs):
        torch.manual_seed(seed)
        layer = bitsandbytes.nn.Linear4bit(
            inputs, size, bias=bias, compute_dtype=torch.float16, compress_statistics=True, quant_type="nf4"
        )
        values = torch.randn(size, inputs).half()
        layer.weight = bitsandbytes.nn.Params4bit(values, requires_grad=False, quant_type="nf4", module=layer).to("cpu")
        if bias:
            layer.bias = torch.nn.Parameter(torch.randn(size).half(), requires_grad=False)
        made.append(layer)
    return made


def dequantized(layer: Any) -> torch.Tensor:
    return bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()  # type: ignore[no-any-return]


@pytest.mark.parametrize("rows", [1, 2, 17, 64, 65])
@pytest.mark.parametrize("bias", [False, True])
def test_layers_side_by_side_give_the_product_with_their_dequantized_weights(rows: int, bias: bool) -> None:
    parts = layers(96, 32, bias=bias)
    weight = torch.cat([dequantized(layer) for layer in parts])
    added = torch.cat([layer.bias for layer in parts]).float() if bias else None
    x = torch.randn(rows, 192).half()
    expected = linear(x.float(), weight, added)
    found = Nf4Product(parts)(x).float()
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 2e-3 * expected.norm()


def test_a_product_gives_the_same_each_time_it_runs() -> None:
    product, x = Nf4Product(layers(32)), torch.randn(3, 192).half()
    assert torch.equal(product(x), product(x))


def test_bitsandbytes_layers_hold_the_same_weights_once_they_share_their_memory() -> None:
    parts = layers(96, 32)
    before = [dequantized(layer) for layer in parts]
    Nf4Product(parts)
    for layer, weight in zip(parts, before, strict=True):
        assert torch.equal(dequantized(layer), weight)
