"""Products over FP8 and NF4 weights in the shapes of the text layers: right, repeatable, capturable."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from serve_app.contracts import Sampling
from serve_app.engine.model.fp8 import Fp8Linear, Fp8Product, quantize_rows
from serve_app.engine.model.nf4 import Nf4Product, fits_nf4
from serve_app.engine.model.products import product as product_of
from serve_app.engine.model.weights import load_model
from serve_app.settings import ModelSettings
from tests.engine.conftest import write_tiny_model
from tests.engine.model.test_paged_runner import Paged
from tests.engine.model.test_slot_runner import mixed_prompts

pytestmark = pytest.mark.gpu

ROWS = [1, 2, 16, 17, 64, 65, 1808]
Product = Callable[[torch.Tensor], torch.Tensor]
Case = tuple[Product, Product, torch.Tensor]  # the product, the same in float32, the weights that it stands for


def fp8() -> Case:
    """Queries, keys and values as one product."""
    layers = []
    for seed, outputs in enumerate((4096, 256, 256)):
        torch.manual_seed(seed)
        layer = Fp8Linear(4096, outputs, bias=True, device="cuda")
        layer.quantize(torch.randn(outputs, 4096, device="cuda", dtype=torch.bfloat16) * 0.02)
        layer.bias = torch.nn.Parameter(torch.randn(outputs, device="cuda").bfloat16(), requires_grad=False)
        layers.append(layer)
    weight = torch.cat([layer.weight.float() * layer.scale for layer in layers])
    bias = torch.cat([layer.bias.float() for layer in layers])  # type: ignore[union-attr]

    def right(x: torch.Tensor) -> torch.Tensor:
        rounded, scales = quantize_rows(x)
        return linear(rounded.float() * scales, weight, bias)

    return Fp8Product(layers), right, weight


def nf4() -> Case:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layers = []
    for seed, outputs in enumerate((4096, 256, 256)):
        torch.manual_seed(seed)
        layer = bitsandbytes.nn.Linear4bit(
            4096, outputs, bias=True, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
        )
        values = torch.randn(outputs, 4096).bfloat16() * 0.02
        layer.weight = bitsandbytes.nn.Params4bit(values, requires_grad=False, quant_type="nf4", module=layer)
        layers.append(layer.cuda())
    weight = torch.cat(
        [bitsandbytes.functional.dequantize_4bit(one.weight.data, one.weight.quant_state).float() for one in layers]
    )
    for layer in layers:
        layer.bias = torch.nn.Parameter(layer.bias.data.bfloat16(), requires_grad=False)
    bias = torch.cat([layer.bias.float() for layer in layers])
    assert fits_nf4(layers)
    return Nf4Product(layers), lambda x: linear(x.float(), weight, bias), weight


@pytest.fixture(scope="module", params=[fp8, nf4], ids=["fp8", "nf4"])
def product(request: pytest.FixtureRequest) -> Case:
    return request.param()  # type: ignore[no-any-return]


def inputs(rows: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(100 + rows)
    return torch.randn(rows, 4096, device="cuda", generator=generator).bfloat16()


@pytest.mark.parametrize("rows", ROWS)
def test_a_product_is_off_by_the_rounding_of_its_output_only(product: Case, rows: int) -> None:
    multiply, right, _ = product
    x = inputs(rows)
    expected = right(x)
    assert (multiply(x).float() - expected).norm() <= 6e-3 * expected.norm()


@pytest.mark.parametrize("rows", ROWS)
def test_large_sums_keep_their_precision(product: Case, rows: int) -> None:
    """FP8 matrix units add with 14 bits, where thousands of summands of one sign lose percents of their sum."""
    multiply, right, weight = product
    x = (50 * weight[:rows]).bfloat16()  # the sum of an output's squares is the largest in its row
    expected = right(x)
    assert (multiply(x).float() - expected).abs().max() <= 1e-2 * expected.abs().max()


@pytest.mark.parametrize("rows", ROWS)
def test_a_captured_product_gives_the_bits_of_a_launched_one(product: Case, rows: int) -> None:
    multiply, _, _ = product
    x = inputs(rows)
    launched = [multiply(x) for _ in range(3)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = multiply(x)
    for _ in range(3):
        captured.zero_()
        graph.replay()
        assert all(torch.equal(captured, one) for one in launched)


@pytest.mark.parametrize(("quantization", "kind"), [("fp8", Fp8Product), ("nf4", Nf4Product)])
def test_a_quantized_model_answers_over_pages(tmp_path: Path, quantization: str, kind: type) -> None:
    folder = write_tiny_model(tmp_path)
    settings = ModelSettings(path=str(folder), device="cuda", dtype="bfloat16", quantization=quantization)  # type: ignore[arg-type]
    model = load_model(folder, settings)
    assert isinstance(product_of(model.text_layers.layers[0].mlp.down_proj), kind)  # type: ignore[union-attr, index]
    rule = Sampling(max_tokens=6, temperature=0.0, ignore_eos=True)  # the random model may choose a stop token
    prompts = mixed_prompts(rule)
    assert [len(answer) for answer in Paged(model).answers(prompts)] == [6] * len(prompts)
