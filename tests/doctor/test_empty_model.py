"""Names and shapes in the shards against the model that config.json describes, for both layouts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.doctor.empty_model import build, check_family, check_names, quantized_bytes
from serve_app.doctor.files import read_shards
from serve_app.doctor.report import CheckEnded, Finding, Status
from serve_app.engine.model.weights import load
from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings
from tests.doctor.conftest import change, named, the_one
from tests.engine.conftest import write_tiny_model
from tests.engine.model.original_glm4v_9b import write_folder

Weights = dict[str, torch.Tensor]


def names_of(folder: Path) -> list[Finding]:
    tensors, _ = read_shards(folder)
    config = json.loads((folder / "config.json").read_text())
    return list(check_names(build(folder, config, tensors, torch.float32), tensors))


def rewrite(folder: Path, edit: Callable[[Weights], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


def test_a_complete_checkpoint_has_every_weight(demo: Path):
    assert the_one(names_of(demo)).seen == "all 136 weights of the model are stored, with the right shapes"


def test_a_complete_original_glm4v_9b_has_every_weight(original: Path):
    assert the_one(names_of(original)).status == Status.OK


def test_a_missing_weight_is_named(tiny: Path):
    rewrite(tiny, lambda weights: weights.pop("model.language_model.layers.1.mlp.down_proj.weight"))
    finding = the_one(names_of(tiny))
    assert finding.status == Status.PROBLEM
    assert "1 of " in finding.seen
    assert "model.language_model.layers.1.mlp.down_proj.weight first" in finding.seen


def test_a_missing_weight_of_the_original_layout_has_the_original_name(original: Path):
    rewrite(original, lambda weights: weights.pop("transformer.vision.boi"))
    assert "transformer.vision.boi first" in the_one(names_of(original)).seen


def test_a_weight_of_another_shape_is_reported_with_both(tiny: Path):
    rewrite(tiny, lambda weights: weights.update({"lm_head.weight": torch.zeros(100, 128)}))
    finding = named(names_of(tiny), "shapes")
    assert finding.status == Status.PROBLEM
    assert "lm_head.weight first: (100, 128) instead of (320, 128)" in finding.seen


def test_a_config_of_another_size_than_the_weights_is_reported(original: Path):
    change(original / "config.json", lambda config: config.update(ffn_hidden_size=192))
    assert named(names_of(original), "shapes").status == Status.PROBLEM


def test_names_that_the_loader_maps_to_the_models_are_not_called_missing(tiny: Path):
    def without_prefix(weights: Weights) -> None:
        for name in list(weights):
            weights[name.removeprefix("model.")] = weights.pop(name)

    rewrite(tiny, without_prefix)
    assert the_one(names_of(tiny)).status == Status.OK
    load(tiny, ModelSettings(path=str(tiny), device="cpu"))


def test_names_of_a_layout_that_the_loader_does_not_map_are_missing(tiny: Path):
    def as_text_model(weights: Weights) -> None:
        for name in list(weights):
            weights[name.replace("model.language_model.", "model.")] = weights.pop(name)

    rewrite(tiny, as_text_model)
    assert named(names_of(tiny), "names").status == Status.PROBLEM
    with pytest.raises(InvalidRequest, match="lacks"):
        load(tiny, ModelSettings(path=str(tiny), device="cpu"))


def test_weights_of_another_layout_are_reported(tiny: Path, tmp_path: Path):
    other = write_folder(tmp_path / "original")
    (other / "model.safetensors").replace(tiny / "model.safetensors")
    finding = named(names_of(tiny), "names")
    assert finding.status == Status.PROBLEM
    assert "None of the model's weights is stored; the first stored tensor is transformer." in finding.seen


def test_weights_beyond_the_model_are_left_out_by_one_loader_and_refused_by_the_other(tiny: Path, tmp_path: Path):
    original = write_folder(tmp_path / "original")
    for folder in (tiny, original):
        rewrite(folder, lambda weights: weights.update({"model.mtp.weight": torch.zeros(2)}))
    assert the_one(names_of(tiny)).status == Status.WARNING
    assert the_one(names_of(original)).status == Status.PROBLEM
    with pytest.raises(InvalidRequest, match=r"model\.mtp\.weight"):
        load(original, ModelSettings(path=str(original), device="cpu"))


def test_a_checkpoint_stored_quantized_is_complete_in_its_own_way(tiny: Path, tmp_path: Path):
    loaded = load(tiny, ModelSettings(path=str(tiny), device="cpu", quantization="nf4"))
    stored = tmp_path / "nf4"
    loaded.model.model.save_pretrained(stored)  # type: ignore[operator]
    (tiny / "preprocessor_config.json").replace(stored / "preprocessor_config.json")
    assert the_one(names_of(stored)).status == Status.OK
    tensors, _ = read_shards(stored)
    whole = sum(tensor.elements * tensor.itemsize for tensor in tensors.values())
    assert quantized_bytes(tensors, torch.float32) == whole  # as it was computed in
    assert quantized_bytes(tensors, torch.bfloat16) < whole


def test_the_empty_model_has_the_properties_of_the_loaded_model(tiny: Path):
    tensors, _ = read_shards(tiny)
    family = build(tiny, json.loads((tiny / "config.json").read_text()), tensors, torch.float32).family
    loaded = load(tiny, ModelSettings(path=str(tiny), device="cpu")).model
    assert family.device.type == "meta"
    for what in ("vocab_size", "max_context_tokens", "stop_ids", "cache_shape"):
        assert getattr(family, what) == getattr(loaded, what), what


@pytest.mark.parametrize(
    ("config", "seen"),
    [
        ({"model_type": "llama"}, "model_type 'llama'. This type is not supported. Use GLM-4.6V-Flash"),
        ({"model_type": "chatglm"}, "no vision_config: it is a text model"),
        ({"model_type": "glm4v_moe", "vision_config": {}}, "Its mixture-of-experts text model is not supported."),
        ({}, "model_type None"),
    ],
)
def test_a_family_that_is_not_supported_ends_the_check(config: dict[str, Any], seen: str):
    with pytest.raises(CheckEnded) as ended:
        list(check_family(config, Path("model")))
    assert seen in ended.value.finding.seen


def test_a_supported_family_is_named(demo: Path):
    finding = the_one(check_family(json.loads((demo / "config.json").read_text()), demo))
    assert finding.seen == "glm4v, as GLM-4.6V-Flash and GLM-4.1V-9B-Thinking"
