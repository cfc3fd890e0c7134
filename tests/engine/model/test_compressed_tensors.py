"""Checkpoints in the compressed-tensors format: expansion, config groups, loading, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from serve_app.engine.model.compressed_tensors import CompressedTensors
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.fp8 import quantize_rows
from serve_app.engine.model.quantization import Quantization
from serve_app.engine.model.shard_reader import stored_tensors
from serve_app.engine.model.weights import load
from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings
from tests.engine.model.compressed_checkpoint import (
    FP8_BLOCK,
    INT4,
    compress,
    compressed_config,
    fp8_blocks,
    int4_groups,
)
from tests.engine.model.test_weights import one_answer
from tests.engine.model.write_compressed_vectors import CASES, FILE

TEXT = "model.language_model.layers.0."
FORMS = {"fp8": FP8_BLOCK, "int4": INT4}


@pytest.mark.parametrize("case", CASES)
def test_expanded_weights_are_bit_for_bit_those_of_the_formats_own_package(case: str) -> None:
    with safe_open(FILE, framework="pt") as file:
        group = json.loads(file.metadata()["config_groups"])[case]
    vectors = load_file(FILE)
    parts = {name.removeprefix(f"{case}."): vectors[name] for name in vectors if name.startswith(f"{case}.")}
    expected = parts.pop("expanded")
    compression = CompressedTensors.of({"quantization_config": compressed_config(group)})
    assert compression is not None
    (scheme,) = compression.schemes
    names = scheme.parts(tuple(expected.shape))
    assert {name: tuple(parts[name].shape) for name in names} == names | (
        {"weight_scale": (1,)} if case == "fp8-tensor" else {}
    )
    found = scheme.expand({name: parts[name] for name in names}, tuple(expected.shape))
    assert found.dtype == expected.dtype
    assert found.is_contiguous()
    assert torch.equal(found, expected)


@pytest.fixture(params=FORMS)
def checkpoint(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A tiny checkpoint with its text layers compressed, and a plain one with the same values."""
    compressed, plain = (Path(shutil.copytree(tiny_model, tmp_path / name)) for name in ("compressed", "plain"))
    compress(compressed, plain, FORMS[request.param])
    return compressed, plain


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compressed_checkpoint_is_loaded_as_the_plain_one_of_the_same_values(
    checkpoint: tuple[Path, Path], dtype: str
) -> None:
    compressed, plain = checkpoint
    settings = {"device": "cpu", "dtype": dtype}
    expected = load(plain, ModelSettings(path=str(plain), **settings))  # type: ignore[arg-type]
    found = load(compressed, ModelSettings(path=str(compressed), **settings))  # type: ignore[arg-type]
    assert (found.quantization, found.parameters) == ("none", expected.parameters)
    values = found.model.model.state_dict()
    for name, weight in expected.model.model.state_dict().items():
        assert values[name].dtype == weight.dtype
        assert torch.equal(values[name], weight), name
    assert one_answer(compressed, dtype=dtype) == one_answer(plain, dtype=dtype)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_expanded_weights_are_quantized_again_as_those_of_any_checkpoint(
    checkpoint: tuple[Path, Path], quantization: str
) -> None:
    compressed, plain = checkpoint
    loaded = load(compressed, ModelSettings(path=str(compressed), device="cpu", quantization=quantization))  # type: ignore[arg-type]
    assert loaded.quantization == quantization
    kinds = {name: type(module).__name__ for name, module in loaded.model.model.named_modules()}
    assert kinds[TEXT + "mlp.down_proj"] == {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[quantization]
    assert kinds["lm_head"] == "Linear"
    assert one_answer(compressed, quantization=quantization) == one_answer(plain, quantization=quantization)


def test_fp8_rounds_the_expanded_weights_again_with_a_scale_a_row(checkpoint: tuple[Path, Path]) -> None:
    compressed, plain = checkpoint
    fp8, cpu = Quantization("fp8"), torch.device("cpu")
    found, expected = (
        Glm4vAdapter.load(folder, json.loads((folder / "config.json").read_text()), torch.bfloat16, cpu, fp8).model
        for folder in (compressed, plain)
    )
    for layer, same in zip(found.model.language_model.layers, expected.model.language_model.layers, strict=True):
        assert layer.mlp.down_proj.weight.dtype == torch.float8_e4m3fn
        assert torch.equal(layer.mlp.down_proj.weight.float(), same.mlp.down_proj.weight.float())
        assert torch.equal(layer.mlp.down_proj.scale, same.mlp.down_proj.scale)


def test_errors_of_weights_that_are_quantized_again_are_those_in_docs_models() -> None:
    weight = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(14))

    def error(values: torch.Tensor) -> float:
        return float((values.float() - weight).norm() / weight.norm())

    def fp8(values: torch.Tensor) -> torch.Tensor:
        rounded, scales = quantize_rows(values.float())
        return rounded.float() * scales

    def nf4(values: torch.Tensor) -> torch.Tensor:
        packed, state = quantize_4bit(values.float().contiguous(), blocksize=64, quant_type="nf4")
        return dequantize_4bit(packed, state)

    for stored, errors in (
        (weight, (0, 0.027, 0.092)),
        (fp8_blocks(weight)[1], (0.027, 0.037, 0.096)),
        (int4_groups(weight)[1], (0.117, 0.120, 0.146)),
    ):
        assert [error(stored), error(fp8(stored)), error(nf4(stored))] == pytest.approx(list(errors), abs=0.001)


def test_the_parts_of_a_weight_may_lie_in_different_shards(checkpoint: tuple[Path, Path]) -> None:
    compressed, plain = checkpoint
    tensors = load_file(compressed / "model.safetensors")
    scales = {name: tensor for name, tensor in tensors.items() if name.endswith("_scale")}
    (compressed / "model.safetensors").unlink()
    save_file(
        {name: tensor for name, tensor in tensors.items() if name not in scales}, compressed / "model-1.safetensors"
    )
    save_file(scales, compressed / "model-2.safetensors")
    assert one_answer(compressed) == one_answer(plain)


def test_scales_of_inputs_and_of_keys_are_not_needed(checkpoint: tuple[Path, Path]) -> None:
    compressed, plain = checkpoint
    tensors = load_file(compressed / "model.safetensors")
    tensors |= {TEXT + "self_attn.q_proj.input_scale": torch.ones(1), TEXT + "self_attn.k_scale": torch.ones(1)}
    save_file(tensors, compressed / "model.safetensors")
    assert one_answer(compressed) == one_answer(plain)


def test_a_missing_scale_is_named(checkpoint: tuple[Path, Path]) -> None:
    compressed, _ = checkpoint
    tensors = load_file(compressed / "model.safetensors")
    del tensors[TEXT + "mlp.down_proj.weight_scale"]
    save_file(tensors, compressed / "model.safetensors")
    with pytest.raises(InvalidRequest, match=r"lacks 1 weights, first .*layers.0.mlp.down_proj.weight_scale"):
        one_answer(compressed)


def test_a_quantized_weight_that_the_config_ignores_is_refused(checkpoint: tuple[Path, Path]) -> None:
    compressed, _ = checkpoint
    config = json.loads((compressed / "config.json").read_text())
    config["quantization_config"]["ignore"].append("re:.*down_proj")
    (compressed / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidRequest, match=r"layers.0.mlp.down_proj.weight is stored quantized, but no config group"):
        one_answer(compressed)


def test_scales_of_8_bits_are_refused(checkpoint: tuple[Path, Path]) -> None:
    compressed, _ = checkpoint
    tensors = load_file(compressed / "model.safetensors")
    name = TEXT + "mlp.down_proj.weight_scale"
    tensors[name] = tensors[name].to(torch.uint8)
    save_file(tensors, compressed / "model.safetensors")
    with pytest.raises(InvalidRequest, match="has scales of 8 bits"):
        one_answer(compressed)


def test_a_module_takes_the_group_that_names_it_before_expressions_and_classes(tmp_path: Path) -> None:
    groups = {
        "class": {"targets": ["Linear"], "weights": {"type": "float", "num_bits": 8, "strategy": "channel"}},
        "expression": {"targets": ["re:.*o_proj$"], "weights": {"type": "float", "num_bits": 8, "strategy": "tensor"}},
        "name": {
            "targets": ["b.o_proj"],
            "weights": {"type": "float", "num_bits": 8, "strategy": "block", "block_structure": [2, 2]},
        },
        "inputs": {"targets": ["Linear"], "weights": None, "input_activations": {}},
    }
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
    compression = CompressedTensors.of({"quantization_config": {**config, "ignore": None}})
    assert compression is not None
    names = ("a.q_proj", "a.o_proj", "b.o_proj")
    float8 = torch.zeros(4, 4).to(torch.float8_e4m3fn)
    save_file({f"{name}.weight": float8.clone() for name in names}, tmp_path / "file")
    stored = {one.name: one for one in stored_tensors(tmp_path / "file")}
    found = compression.find({f"{name}.weight": (4, 4) for name in names}, stored)
    grids = [found[f"{name}.weight"].parts[f"{name}.weight_scale"] for name in names]
    assert grids == [(4, 1), (1, 1), (2, 2)]


def test_weights_in_16_bits_stay_as_they_are_even_beside_a_scale(tmp_path: Path) -> None:
    """A checkpoint that was saved before it was compressed has scales too."""
    tensors = {"a.weight": torch.zeros(4, 4, dtype=torch.bfloat16), "a.weight_scale": torch.zeros(1, 1)}
    save_file(tensors, tmp_path / "file")
    compression = CompressedTensors.of({"quantization_config": compressed_config(FP8_BLOCK)})
    assert compression is not None
    assert not compression.find({"a.weight": (4, 4)}, {one.name: one for one in stored_tensors(tmp_path / "file")})


def changed(**weights: Any) -> dict[str, Any]:
    return compressed_config({**INT4, "weights": INT4["weights"] | weights})


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quant_method 'gptq'.*supported: compressed-tensors, bitsandbytes"),
        ({"quant_method": "awq", "bits": 4}, "quant_method 'awq'"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "quant_method 'fp8'"),
        (compressed_config({**INT4, "format": "nvfp4-pack-quantized"}), "format 'nvfp4-pack-quantized'"),
        (compressed_config({**INT4, "format": "mxfp4-pack-quantized"}), "format 'mxfp4-pack-quantized'"),
        (compressed_config({**INT4, "format": "marlin-24"}), "format 'marlin-24'.*supported: float-quantized, int-"),
        (
            compressed_config(INT4) | {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "sparsity_config.format 'sparse",
        ),
        (compressed_config(INT4) | {"transform_config": {"config_groups": {"R1": {}}}}, r"transform_config \['R1'\]"),
        (changed(type="float"), "type 'float'"),
        (changed(num_bits=3), "num_bits 3.*supported: 4, 8"),
        (changed(strategy="tensor_group"), "strategy 'tensor_group'.*supported: channel, group"),
        (changed(actorder="group"), "actorder 'group'.*supported: weight, static"),
        (compressed_config({**FP8_BLOCK, "targets": ["re:("]}), r"could not be understood \(error: "),
        (compressed_config({**FP8_BLOCK, "weights": "many"}), r"could not be understood \(AttributeError: "),
        ({"quant_method": "compressed-tensors", "config_groups": {"W4A16": ["Linear"]}}, "could not be understood"),
    ],
)
def test_forms_that_can_not_be_read_are_refused_with_what_can_be(stored: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as refusal:
        CompressedTensors.of({"quantization_config": stored})
    assert refusal.value.message.endswith((" at the revision of the weights.", " where memory is short."))


def test_checkpoints_that_others_read_are_left_to_them() -> None:
    assert CompressedTensors.of({}) is None
    assert CompressedTensors.of({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}) is None
