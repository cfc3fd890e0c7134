"""Loading: shards, dtypes, quantization on load and stored, and what is wrong with a folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from serve_app.contracts import Picture, Sampling
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.fp8 import Fp8Linear
from serve_app.engine.model.quantization import Quantization
from serve_app.engine.model.weights import find_device, find_dtype, load
from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings
from tests.engine.conftest import prompt, write_tiny_model
from tests.engine.model.test_slot_runner import answers

CPU = torch.device("cpu")


def one_answer(folder: Path, **settings: str) -> list[int]:
    loaded = load(folder, ModelSettings(path=str(folder), device="cpu", **settings))  # type: ignore[arg-type]
    question = prompt("p", np.random.default_rng(3), Sampling(max_tokens=6, temperature=0.0), pictures=1, text=9)
    return answers(loaded.model, [question])[0]


def test_a_sharded_checkpoint_answers_as_a_whole_one(tiny_model: Path, tmp_path: Path) -> None:
    sharded = write_tiny_model(tmp_path, shard_size="300KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert one_answer(sharded) == one_answer(tiny_model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])  # stored are float32
def test_weights_and_frequencies_are_those_that_the_library_loads(tiny_model: Path, dtype: torch.dtype) -> None:
    ours = Glm4vAdapter.load(tiny_model, {}, dtype, CPU, Quantization()).model
    theirs = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=dtype, local_files_only=True).eval()
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    assert not any(module.training for module in ours.modules())
    expected = {**theirs.state_dict(), **dict(theirs.named_buffers())}
    found = {**ours.state_dict(), **dict(ours.named_buffers())}
    assert found.keys() == expected.keys()
    assert any("inv_freq" in name for name in found)
    for name, values in found.items():
        assert values.dtype == expected[name].dtype, name
        assert torch.equal(values, expected[name]), name


def test_tensors_that_are_not_the_models_are_ignored(tiny_model: Path, tmp_path: Path) -> None:
    more = Path(shutil.copytree(tiny_model, tmp_path / "more"))
    weights = load_file(more / "model.safetensors")
    weights["model.language_model.layers.9.eh_proj.weight"] = torch.zeros(4, 4)
    save_file(weights, more / "model.safetensors", metadata={"format": "pt"})
    assert one_answer(more, dtype="bfloat16") == one_answer(tiny_model, dtype="bfloat16")


def test_a_head_that_shares_the_embeddings_tensor_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    tied = Path(shutil.copytree(tiny_model, tmp_path / "tied"))
    config = json.loads((tied / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tied / "config.json").write_text(json.dumps(config))
    weights = load_file(tied / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tied / "model.safetensors", metadata={"format": "pt"})
    model = Glm4vAdapter.load(tied, config, torch.bfloat16, CPU, Quantization()).model
    assert torch.equal(model.lm_head.weight, weights["model.language_model.embed_tokens.weight"].bfloat16())


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_text_layers_are_quantized_and_head_and_tower_stay_whole(tiny_model: Path, quantization: str) -> None:
    loaded = load(tiny_model, ModelSettings(path=str(tiny_model), device="cpu", quantization=quantization))  # type: ignore[arg-type]
    model = loaded.model.model
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if "Linear" in type(module).__name__}
    whole = {name for name, kind in kinds.items() if kind == "Linear"}
    assert "lm_head" in whole
    assert all(name.startswith(("lm_head", "model.visual")) for name in whole)
    assert sum("language_model" in name for name in kinds) == 3 * 6
    assert loaded.quantization == quantization


def test_the_number_of_parameters_does_not_depend_on_how_they_are_packed(tiny_model: Path) -> None:
    whole, packed = (
        load(tiny_model, ModelSettings(path=str(tiny_model), device="cpu", quantization=kind)).parameters  # type: ignore[arg-type]
        for kind in ("none", "nf4")
    )
    assert whole == packed


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_tower_is_quantized_if_asked_and_the_model_still_answers(tiny_model: Path, quantization: str) -> None:
    settings = ModelSettings(path=str(tiny_model), device="cpu", quantization=quantization, quantize_vision=True)  # type: ignore[arg-type]
    adapter = load(tiny_model, settings).model
    whole = [name for name, module in adapter.model.named_modules() if type(module) is torch.nn.Linear]
    assert whole == ["lm_head"]
    question = prompt("p", np.random.default_rng(3), Sampling(max_tokens=6, temperature=0.0), pictures=1, text=9)
    assert len(answers(adapter, [question])[0]) == 6


@pytest.mark.parametrize("vision", [False, True])
def test_fp8_layers_answer_as_the_model_with_their_rounded_weights(tiny_model: Path, vision: bool) -> None:
    dtype = torch.float32
    adapter = Glm4vAdapter.load(tiny_model, {}, dtype, CPU, Quantization("fp8", vision))
    rounded = Glm4vAdapter.load(tiny_model, {}, dtype, CPU, Quantization())
    names = [name for name, module in adapter.model.named_modules() if isinstance(module, Fp8Linear)]
    assert ("model.visual.blocks.0.attn.qkv" in names) == vision
    assert "lm_head" not in names
    assert sum("language_model" in name for name in names) == 3 * 6
    for name in names:
        layer = adapter.model.get_submodule(name)
        rounded.model.get_submodule(name).weight.data = layer.weight.float() * layer.scale
    pictures = torch.randint(0, 256, (56, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found, expected = (one.encode(Picture(pictures.numpy(), "p", 4, (56, 56))) for one in (adapter, rounded))
    assert (found - expected).norm() <= (0.1 if vision else 1e-6) * expected.norm()
    question = prompt("p", np.random.default_rng(3), Sampling(max_tokens=6, temperature=0.0), pictures=1, text=9)
    assert len(answers(adapter, [question])[0]) == 6
    assert adapter.stop_ids == rounded.stop_ids


def test_fp8_is_refused_where_there_is_no_gpu_for_it(tiny_model: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"The format fp8 needs a GPU, and this model runs on a CPU\."):
        load(tiny_model, ModelSettings(path=str(tiny_model), device="cpu", quantization="fp8"))


def test_a_tower_alone_is_not_quantized(tiny_model: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"needs model\.quantization"):
        load(tiny_model, ModelSettings(path=str(tiny_model), device="cpu", quantize_vision=True))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_model_answers(tiny_model: Path, quantization: str) -> None:
    assert len(one_answer(tiny_model, quantization=quantization)) == 6


def test_a_checkpoint_saved_quantized_loads_and_answers_the_same(tiny_model: Path, tmp_path: Path) -> None:
    loaded = load(tiny_model, ModelSettings(path=str(tiny_model), device="cpu", quantization="nf4"))
    loaded.model.model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(tiny_model / name, tmp_path)
    assert one_answer(tmp_path) == one_answer(tiny_model, quantization="nf4")
    with pytest.raises(InvalidRequest, match="quantized already"):
        one_answer(tmp_path, quantization="nf4")


def test_a_missing_weight_is_named(tiny_model: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    del weights["model.language_model.layers.1.mlp.down_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidRequest, match=r"lacks 1 weights, first model\.language_model\.layers\.1\.mlp"):
        load(broken, ModelSettings(path=str(broken), device="cpu"))


def test_a_folder_without_weights_says_so(tiny_model: Path, tmp_path: Path) -> None:
    empty = Path(shutil.copytree(tiny_model, tmp_path / "empty"))
    (empty / "model.safetensors").unlink()
    with pytest.raises(InvalidRequest, match=r"could not be loaded.*model\.safetensors"):
        load(empty, ModelSettings(path=str(empty), device="cpu"))


def test_an_unknown_family_is_refused_with_those_that_are_served(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InvalidRequest, match=r"'llama'.*glm4v"):
        load(tmp_path, ModelSettings(path=str(tmp_path)))


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert find_dtype("auto", CPU, torch.bfloat16) == torch.float32
    assert find_dtype("bfloat16", CPU, torch.float32) == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_asking_for_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no CUDA device"):
        find_device("cuda")
