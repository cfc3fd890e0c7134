"""Sizes and arithmetic of the checkpoints, against published totals, the loader's network and torch's own counter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText

from serve_app.errors import InvalidRequest
from serve_app.plan.checkpoints import CONFIGS, Checkpoint, of_config, read_checkpoint
from serve_app.settings import DEMO_MODEL
from tests.engine.model.compressed_checkpoint import FP8_BLOCK, compressed_config
from tests.plan.conftest import CHECKPOINTS

ROOT = Path(__file__).parents[2]
FLASH: dict[str, Any] = json.loads(CONFIGS["glm-4.6v-flash"].read_text())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("glm-4.6v-flash", 10_292_777_472), ("glm-4.1v-9b-thinking", 10_292_777_472), ("glm-4v-9b", 13_906_320_896)],
)
def test_parameters_are_the_published_ones(name: str, parameters: int):
    assert CHECKPOINTS[name].sizes.parameters == parameters


def test_a_token_of_the_cache_is_40_kib():
    assert {known.sizes.cache.bytes_per_token for known in CHECKPOINTS.values()} == {40 * 1024}


def test_the_stored_config_of_glm_4v_9b_has_the_sizes_of_the_published_one():
    config = json.loads((ROOT / "tests" / "glm-4v-9b.config.json").read_text())
    assert of_config(config, None) == CHECKPOINTS["glm-4v-9b"]


@pytest.mark.parametrize("written", ["zai-org/GLM-4.6V-Flash", "ZhipuAI/GLM-4.6V-Flash", "glm-4.6v-flash"])
def test_a_hub_id_is_known_whoever_publishes_it(written: str):
    assert read_checkpoint(written) == CHECKPOINTS["glm-4.6v-flash"]


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((640, 480), 391), ((1280, 720), 1196), ((1120, 1120), 1600), ((1920, 1080), 2691), ((4000, 3000), 6030)],
)
def test_tokens_of_a_picture_are_the_familys_own(flash: Checkpoint, size: tuple[int, int], tokens: int):
    assert flash.picture_tokens(*size, most=6144) == tokens


def test_a_large_picture_is_scaled_down_to_what_is_allowed(flash: Checkpoint):
    assert flash.picture_tokens(4000, 3000, most=1000) <= 1000


def test_glm_4v_9b_sees_one_square(original: Checkpoint):
    assert original.picture_tokens(100, 100, 6144) == original.picture_tokens(4000, 3000, 6144) == 1602


def test_a_stripe_of_a_picture_is_refused(flash: Checkpoint):
    with pytest.raises(InvalidRequest, match="200 times the other"):
        flash.picture_tokens(10_000, 20, 6144)


@pytest.mark.parametrize("tokens", [64, 1600])
def test_the_towers_operations_are_those_that_torch_counts(flash: Checkpoint, tokens: int):
    """Embedding tables, norms and rotations apart: those the counter leaves out too."""
    parts = glm4v_network().model
    side = int(tokens**0.5) * 2
    pixels = torch.empty(side * side, 3 * 2 * 14 * 14, device="meta", dtype=torch.bfloat16)
    grid = torch.tensor([[1, side, side]])
    counter = FlopCounterMode(display=False)
    tower = parts.visual
    with counter, torch.device("meta"):
        hidden = tower.patch_embed.proj(pixels.view(-1, 3, 2, 14, 14)).view(-1, tower.config.hidden_size)
        for block in tower.blocks:
            queries, keys, values = block.attn.qkv(hidden).view(1, side * side, 3, 12, 128).permute(2, 0, 3, 1, 4)
            attended = torch.matmul(torch.matmul(queries, keys.transpose(2, 3)), values)
            hidden = block.attn.proj(attended.transpose(1, 2).reshape(side * side, -1))
            hidden = block.mlp(hidden)
        merged = tower.downsample(hidden.view(-1, 2, 2, tower.config.hidden_size).permute(0, 3, 1, 2))
        tower.merger(merged.view(tokens, -1))
    assert grid.prod() == side * side
    assert flash.encode_operations(tokens) == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_the_text_layers_operations_are_those_that_torch_counts(flash: Checkpoint):
    """torch counts full attention; ours is causal."""
    network = glm4v_network().model.language_model
    counter = FlopCounterMode(display=False)
    tokens = 96
    with counter, torch.device("meta"):
        for layer in network.layers:
            attention = layer.self_attn
            hidden = torch.empty(1, tokens, 4096, dtype=torch.bfloat16)
            for product in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
                product(hidden)
            layer.mlp(hidden)
    products = flash.prefill_operations(tokens) - 4 * 40 * 4096 * tokens * tokens / 2
    assert products == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_sizes_of_a_folder_come_from_its_config():
    demo = read_checkpoint(str(DEMO_MODEL))
    assert demo.sizes.parameters == 16_211_968
    assert (
        demo.longest_context
        == json.loads((DEMO_MODEL / "config.json").read_text())["text_config"]["max_position_embeddings"]
    )


def test_a_compressed_checkpoint_is_planned_with_its_expanded_weights(flash: Checkpoint):
    assert of_config({**FLASH, "quantization_config": compressed_config(FP8_BLOCK)}, None).sizes == flash.sizes


def test_the_refusal_of_an_unknown_model_lists_the_known_ones():
    with pytest.raises(InvalidRequest, match=r"neither a folder with a config.json.*glm-4.6v-flash, .*glm-4v-9b"):
        read_checkpoint("zai-org/GLM-9")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "llama"}, "This type is not supported"),
        ({"model_type": "chatglm"}, "no vision_config"),
        ({**FLASH, "quantization_config": {"load_in_4bit": True}}, "stored quantized"),
        ({**FLASH, "quantization_config": {"quant_method": "awq"}}, "quant_method 'awq'"),
    ],
)
def test_a_checkpoint_that_can_not_be_planned_is_refused(config: dict[str, Any], why: str):
    with pytest.raises(InvalidRequest, match=why):
        of_config(config, None)


def glm4v_network() -> Any:
    config = FLASH
    fields = {name: value for name, value in config.items() if name != "model_type"}
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(AutoConfig.for_model("glm4v", **fields))
    return network.to(torch.bfloat16)
