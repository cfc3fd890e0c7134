"""GLM-4V-9B's files: shards, configs and tokenizer as published, what is wrong with others, and quantized weights."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from serve_app.engine.model.families.glm4v_9b import Glm4v9bAdapter, empty_network
from serve_app.engine.model.quantization import count_parameters
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.weights import load
from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings
from tests.engine.model.original_glm4v_9b import SMALL, STOP, changed, write_folder, write_weights
from tests.engine.model.test_glm4v_9b import last_logits, questions, read
from tests.engine.model.test_slot_runner import answers

FULL = json.loads((Path(__file__).parents[2] / "glm-4v-9b.config.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Glm4v9bAdapter:
    return read(folder)


@pytest.mark.parametrize("index", [True, False])
def test_a_sharded_checkpoint_gives_the_same_numbers(
    folder: Path, adapter: Glm4v9bAdapter, tmp_path: Path, index: bool
) -> None:
    sharded = copied(folder, tmp_path, shards=5, index=index)
    assert len(list(sharded.glob("*.safetensors"))) == 5
    for one, _ in questions(SMALL, count=2):
        assert torch.equal(last_logits(read(sharded), one), last_logits(adapter, one))


def copied(
    folder: Path,
    to: Path,
    without: str = "",
    added: dict[str, torch.Tensor] | None = None,
    config: dict[str, Any] = SMALL,
    **layout: Any,
) -> Path:
    """The folder with a weight less, weights more or other, or another config."""
    weights = load_file(folder / "model.safetensors") | (added or {})
    weights.pop(without, None)
    write_weights(to, weights, **layout)
    (to / "config.json").write_text(json.dumps(config))
    return to


FINAL = "transformer.encoder.final_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"without": FINAL}, rf"lacks 1 weights, first {FINAL}"),
        ({"added": {"transformer.more": torch.zeros(1)}}, r"unlike its config, 1 weights, first transformer\.more"),
        ({"added": {FINAL: torch.zeros(65)}}, rf"another shape .* 1 weights, first {FINAL} \(65,\) instead of \(64,\)"),
        ({"config": changed(SMALL, num_layers=3)}, r"lacks 7 weights, first transformer\.encoder\.layers\.2"),
        ({"config": changed(SMALL, add_qkv_bias=None)}, r"unlike its config, 2 weights, .*query_key_value\.bias"),
        ({"config": changed(SMALL, multi_query_group_num=4)}, r"4 weights, .*bias \(128,\) instead of \(192,\)"),
        ({"config": changed(SMALL, hidden_size=None)}, "lacks 'hidden_size'"),
        ({"config": changed(SMALL, eoi_token_id=None)}, "lacks 'eoi_token_id'"),
        ({"config": changed(SMALL, vision={"num_positions": 26})}, "26 positions for 4x4 patches"),
        ({"config": changed(SMALL, vision={"hidden_act": "sine"})}, "unknown hidden_act 'sine'"),
        ({"config": changed(SMALL, rmsnorm=False)}, "rmsnorm False; only True"),
        ({"config": changed(SMALL, num_layers="two")}, "does not describe a GLM-4V-9B"),
        ({"config": {key: SMALL[key] for key in SMALL if key != "vision_config"}}, "no vision_config"),
    ],
)
def test_a_folder_that_is_not_the_model_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        read(copied(folder, tmp_path, **change))


def test_a_folder_with_broken_files_is_refused(folder: Path, tmp_path: Path) -> None:
    sharded = copied(folder, tmp_path, shards=3)
    first, second, _ = sorted(sharded.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(InvalidRequest, match=rf"{first.name} could not be read"):
        read(sharded)
    second.unlink()
    first.unlink()
    with pytest.raises(InvalidRequest, match=rf"{first.name} could not be read"):
        read(sharded)
    (sharded / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InvalidRequest, match=r"index\.json of .* holds no JSON object"):
        read(sharded)
    (sharded / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InvalidRequest, match=r"index\.json has no weight_map"):
        read(sharded)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    with pytest.raises(InvalidRequest, match=r"has no model\.safetensors"):
        read(tmp_path)


def test_the_full_shape_has_as_many_parameters_as_the_published_model() -> None:
    assert count_parameters(empty_network(FULL)) == 13_906_320_896


def test_what_a_config_leaves_out_is_as_the_original_code_has_it() -> None:
    trunk = empty_network(FULL).language_model.config
    assert trunk.rope_parameters["rope_theta"] == 10000
    bare = changed(FULL, multi_query_attention=None, kv_channels=None, layernorm_epsilon=None, add_qkv_bias=None)
    trunk = empty_network(bare).language_model.config
    assert (trunk.num_key_value_heads, trunk.head_dim, trunk.rms_norm_eps, trunk.attention_bias) == (
        32,
        128,
        1e-5,
        False,
    )


def test_the_generation_config_has_the_last_word_on_where_an_answer_ends(folder: Path, tmp_path: Path) -> None:
    assert read(folder).stop_ids == set(STOP)
    copied(folder, tmp_path)
    for stated, ending in (([7], {7}), (7, {7}), (None, set(STOP))):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
        assert read(tmp_path).stop_ids == ending


def test_token_bytes_come_from_the_tiktoken_file_and_markers_have_none(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path)
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate([b"a", " 好".encode(), b"\xff"])]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines) + "\n")
    markers = {"3": {"content": "<|endoftext|>", "special": True}, "600": {"content": "<|far|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": markers}))
    vocabulary = load(tmp_path, ModelSettings(path=str(tmp_path), device="cpu")).vocabulary
    assert vocabulary.token_bytes == [b"a", " 好".encode(), b"\xff", *[b""] * 509]
    assert vocabulary.names == {"<|endoftext|>": 3}


@pytest.mark.parametrize("content", ["not base64! 0", "YQ== 600", "YQ==", "", "YQ== -600"])
def test_a_broken_tokenizer_file_is_refused(folder: Path, tmp_path: Path, content: str) -> None:
    copied(folder, tmp_path)
    (tmp_path / "tokenizer.model").write_text(content)
    with pytest.raises(InvalidRequest, match=r"tokenizer\.model (could not be read|holds no tokens)"):
        load(tmp_path, ModelSettings(path=str(tmp_path), device="cpu"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_all_weights_have_the_one_type_that_was_asked_for(folder: Path, dtype: str) -> None:
    network = read(folder, dtype=dtype).model
    assert {parameter.dtype for parameter in network.parameters()} == {getattr(torch, dtype)}
    assert network.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert not any(parameter.is_meta for parameter in [*network.parameters(), *network.buffers()])


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("vision", [False, True])
def test_a_quantized_model_answers_and_head_and_tower_stay_whole_unless_asked(
    folder: Path, adapter: Glm4v9bAdapter, quantization: str, vision: bool
) -> None:
    model = read(folder, quantization=quantization, quantize_vision=vision)
    kinds = {
        name: type(module).__name__ for name, module in model.model.named_modules() if "Linear" in type(module).__name__
    }
    whole = {name for name, kind in kinds.items() if kind == "Linear"}
    assert whole == {"lm_head"} | {name for name in kinds if name.startswith("visual") and not vision}
    assert len(kinds) == 1 + 2 * 6 + (2 * 4 + 4)
    assert count_parameters(model.model) == count_parameters(adapter.model)
    asked = [one for one, _ in questions(SMALL, max_tokens=6, ignore_eos=True)]
    assert all(len(answer) == 6 for answer in answers(model, asked, context_tokens=64))
    assert (
        torch.nn.functional.cosine_similarity(last_logits(model, asked[0]), last_logits(adapter, asked[0]), dim=0) > 0.9
    )


def test_layers_that_nf4_kernels_do_not_take_stay_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path, changed(SMALL, ffn_hidden_size=96))
    model = read(tmp_path, quantization="nf4")
    whole = [name for name, module in model.model.language_model.named_modules() if type(module) is torch.nn.Linear]
    assert whole == ["layers.0.mlp.down_proj", "layers.1.mlp.down_proj"]
    assert len(caplog.records) == len(whole)
    assert len(answers(model, [questions(SMALL, max_tokens=6)[0][0]], context_tokens=64)[0]) == 6


def test_a_quantized_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path, config=changed(SMALL, quantization_config={"quant_method": "gptq"}))
    with pytest.raises(InvalidRequest, match="quantization_config"):
        read(tmp_path)


def test_numbers_that_float16_does_not_have_are_noticed_before_the_first_request(folder: Path, tmp_path: Path) -> None:
    name = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"
    large = load_file(folder / "model.safetensors")[name] * 60000
    copied(folder, tmp_path, added={name: large})
    SlotRunner(read(tmp_path), 1, 64).check_numbers()
    with pytest.raises(InvalidRequest, match=r"text layers needs larger numbers than float16 has.*bfloat16"):
        SlotRunner(read(tmp_path, dtype="float16"), 1, 64).check_numbers()


def test_damaged_weights_are_noticed_before_the_first_request(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path, added={"transformer.vision.conv.bias": torch.full((64,), torch.nan)})
    with pytest.raises(InvalidRequest, match="vision tower gives values that are not numbers"):
        SlotRunner(read(tmp_path), 1, 64).check_numbers()
