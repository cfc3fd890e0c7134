"""FP8 layers: rounding, products of joined layers, and the kernels in Triton's interpreter."""

import pytest
import torch
from torch.nn.functional import linear

from serve_app.engine.model.fp8 import Fp8Linear, Fp8Product, quantize_rows


def layer(outputs: int, seed: int, bias: bool = False) -> tuple[Fp8Linear, torch.Tensor]:
    """A layer, and the weight it was made of."""
    torch.manual_seed(seed)
    made, weight = Fp8Linear(64, outputs, bias), torch.randn(outputs, 64)
    made.quantize(weight)
    if made.bias is not None:
        made.bias.data.normal_()
    return made, weight


def test_a_rounded_row_uses_the_whole_range_and_is_off_by_half_a_step_at_most() -> None:
    values = torch.randn(5, 96) * torch.logspace(-3, 3, 5)[:, None]
    values[3] = 0
    rounded, scales = quantize_rows(values)
    assert rounded.float().abs().amax(1).tolist() == [448.0, 448.0, 448.0, 0.0, 448.0]
    error = (rounded.float() * scales - values).abs()
    assert bool((error <= values.abs() / 16 + scales / 1024).all())  # three bits after the point, and subnormals


def test_a_layer_is_off_from_the_unrounded_one_by_a_few_percent() -> None:
    made, weight = layer(48, seed=1, bias=True)
    x = torch.randn(2, 3, 64)
    expected = linear(x, weight, made.bias)
    assert (made(x) - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("bias", [False, True])
def test_layers_side_by_side_give_what_each_gives(bias: bool) -> None:
    parts = [layer(size, seed, bias)[0] for seed, size in enumerate((48, 16, 32))]
    x = torch.randn(5, 64)
    expected = torch.cat([part(x) for part in parts], dim=1)
    assert torch.allclose(Fp8Product(parts)(x), expected, atol=1e-6)
    assert torch.allclose(torch.cat([part(x) for part in parts], dim=1), expected, atol=1e-6)


def test_the_kernel_finds_the_scale_of_each_row() -> None:
    kernels = pytest.importorskip("serve_app.engine.model.kernels.fp8", reason="there is no Triton")
    # Numbers that FP8 has: Triton's interpreter rounds others wrongly where a power of two is passed.
    exact = torch.randn(4, 96).clamp(-3, 3).to(torch.float8_e4m3fn).float()
    exact[:, 7] = 448.0
    powers = torch.tensor([[0.125], [1.0], [4.0], [64.0]])
    rounded, scales = kernels.quantize_rows(exact * powers)
    assert torch.equal(scales, powers)
    assert torch.equal(rounded.float(), exact)


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("bias", [False, True])
def test_the_kernel_of_few_rows_multiplies_the_rounded_numbers(rows: int, bias: bool) -> None:
    kernels = pytest.importorskip("serve_app.engine.model.kernels.fp8", reason="there is no Triton")
    from serve_app.engine.model.kernels.few_rows import Split

    x, weight = quantize_rows(torch.randn(rows, 320)), quantize_rows(torch.randn(96, 320))
    added = torch.randn(96) if bias else None
    found = kernels.multiply(*x, *weight, added, Split(96, torch.device("cpu")), torch.float32)
    expected = linear(x[0].float() * x[1], weight[0].float() * weight[1], added)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
