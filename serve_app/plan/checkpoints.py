"""What a checkpoint costs, from its config.json: weights, a token's cache, pictures, arithmetic.

A folder says it all itself. For the hub ids of the three supported checkpoints the parts of their config.json
that decide sizes are kept here, so that a plan needs no download.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from serve_app.engine.model.families.glm4v_9b import Glm4v9b, empty_network
from serve_app.engine.model.footprint import Sizes
from serve_app.engine.model.slots import CacheShape
from serve_app.engine.model.weights import FAMILIES, checkpoint_dtype
from serve_app.errors import InvalidRequest
from serve_app.preprocess.glm4v import AspectTooLong, Glm4vGrid

PATCHES_PER_TOKEN: Final = 4  # both families: 2 x 2 patches become one token

# preprocessor_config.json of GLM-4.1V-9B-Thinking and GLM-4.6V-Flash
_GRID: Final = Glm4vGrid(shortest_edge=12_544, longest_edge=9_633_792)
_TEXT: Final = {
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "vocab_size": 151552,
    "attention_bias": True,
}
_VISION: Final = {
    "depth": 24,
    "hidden_size": 1536,
    "num_heads": 12,
    "out_hidden_size": 4096,
    "intermediate_size": 13696,
    "image_size": 336,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_GLM_4V_9B: Final = {
    "model_type": "chatglm",
    "vision_config": {
        "hidden_act": "gelu",
        "in_channels": 3,
        "num_hidden_layers": 63,
        "hidden_size": 1792,
        "patch_size": 14,
        "num_heads": 16,
        "intermediate_size": 15360,
        "layer_norm_eps": 1e-06,
        "num_positions": 6401,
        "image_size": 1120,
        "scaling_factor": 8,
    },
    "add_qkv_bias": True,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1.5625e-07,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 40,
    "padded_vocab_size": 151552,
    "seq_length": 8192,
    "rmsnorm": True,
    "post_layer_norm": True,
    "original_rope": True,
    "add_bias_linear": False,
    "tie_word_embeddings": False,
    "boi_token_id": 151339,
    "eoi_token_id": 151340,
    "torch_dtype": "bfloat16",
}


def _glm4v(longest: int) -> dict[str, Any]:
    text = {**_TEXT, "max_position_embeddings": longest}
    return {"model_type": "glm4v", "dtype": "bfloat16", "text_config": text, "vision_config": _VISION}


# By the last part of the id: the same checkpoints are published under several owners and on several hubs.
KNOWN: Final[Mapping[str, dict[str, Any]]] = {
    "glm-4.6v-flash": _glm4v(131_072),
    "glm-4.1v-9b-thinking": _glm4v(65_536),
    "glm-4v-9b": _GLM_4V_9B,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The numbers that a plan is made of; arithmetic in floating-point operations (a multiply-add is two)."""

    model_type: str
    sizes: Sizes
    head: int  # elements of lm_head, which every step reads
    heads_width: int  # of the text's attention: heads x head_dim
    tower_layers: int
    tower_width: int
    per_patch: int  # elements of the tower's products that every patch goes through
    per_token: int  # and of those after patches became tokens
    longest_context: int
    grid: Glm4vGrid | None  # how a picture is cut; None: every picture becomes one square
    square_tokens: int = 0

    def picture_tokens(self, width: int, height: int, most: int) -> int:
        """Cache tokens of a picture of so many pixels, no more than `most` where the family can scale it down."""
        if self.grid is None:
            return self.square_tokens
        try:
            return self.grid.tokens(*self.grid.size(width, height, most))
        except AspectTooLong as error:
            raise InvalidRequest(
                f"a picture of {width} x {height} is refused: one side is more than 200 times the other",
                param="--picture",
            ) from error

    def encode_flop(self, tokens: int) -> float:
        """The tower's work on a picture of so many tokens: products, and attention of every patch to every other."""
        patches = PATCHES_PER_TOKEN * tokens
        products = 2.0 * (patches * self.per_patch + tokens * self.per_token)
        return products + 4.0 * self.tower_layers * self.tower_width * patches**2

    def prefill_flop(self, start: int, stop: int) -> float:
        """The text layers' work on prompt tokens [start, stop), each attending to all before it."""
        tokens = stop - start
        attended = tokens * (start + stop) / 2
        return 2.0 * tokens * self.sizes.text_linear + 4.0 * self.sizes.cache.layers * self.heads_width * attended


def checkpoint(model: str) -> Checkpoint:
    """By folder or hub id; InvalidRequest for what is neither known nor here, or is not of a served family."""
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return of_config(config, None if config.get("model_type") == "chatglm" else Glm4vGrid.of_checkpoint(folder))
    config = KNOWN.get(folder.name.lower(), {})
    if not config:
        raise InvalidRequest(
            f"{model!r} is no folder with a config.json, and no checkpoint whose sizes are known without it"
            f" ({', '.join(KNOWN)}): download it and give its folder",
            param="--model",
        )
    return of_config(config, _GRID)


def of_config(config: dict[str, Any], grid: Glm4vGrid | None) -> Checkpoint:
    """Count over the loader's own classes, built without weights; raises InvalidRequest."""
    kind = config.get("model_type", "")
    if kind not in FAMILIES or "vision_config" not in config:
        raise InvalidRequest(
            f"model_type {kind!r} is not served; served are {', '.join(sorted(FAMILIES))} with a vision_config",
            param="--model",
        )
    if config.get("quantization_config"):
        raise InvalidRequest(
            "the checkpoint is stored quantized, and its sizes can't be told from config.json: plan with the release"
            " that is whole, and choose the quantization it is stored in",
            param="--model",
        )
    return _original(config) if FAMILIES[kind] is Glm4v9b else _transformers(config, grid or _GRID)


def _original(config: dict[str, Any]) -> Checkpoint:
    adapter = Glm4v9b(empty_network(config), config, _dtype(config))
    vision = adapter.model.visual.shape
    return Checkpoint(
        model_type="chatglm",
        sizes=Sizes.of(adapter.model, adapter.cache_shape, None),
        head=adapter.model.lm_head.weight.numel(),
        heads_width=int(config["num_attention_heads"]) * adapter.cache_shape.head_dim,
        tower_layers=int(config["vision_config"]["num_hidden_layers"]),
        tower_width=int(config["vision_config"]["hidden_size"]),
        **_tower(adapter.model.visual),
        longest_context=adapter.max_context_tokens,
        grid=None,
        square_tokens=vision.tokens,
    )


def _transformers(config: dict[str, Any], grid: Glm4vGrid) -> Checkpoint:
    from transformers import AutoConfig, AutoModelForImageTextToText  # imported late: seconds

    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    parsed = AutoConfig.for_model(config["model_type"], **fields)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(parsed)
    text, vision = parsed.text_config, parsed.vision_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = CacheShape(text.num_hidden_layers, text.num_key_value_heads, head_dim, _dtype(config))
    return Checkpoint(
        model_type=config["model_type"],
        sizes=Sizes.of(network, cache, None),
        head=network.lm_head.weight.numel(),
        heads_width=text.num_attention_heads * head_dim,
        tower_layers=vision.depth,
        tower_width=vision.hidden_size,
        **_tower(network.model.visual),
        longest_context=text.max_position_embeddings,
        grid=grid,
    )


def _dtype(config: dict[str, Any]) -> torch.dtype:
    stored = checkpoint_dtype(config)
    return torch.bfloat16 if stored == torch.float32 else stored  # what 16-bit types are stored as, now and then


def _tower(tower: nn.Module) -> dict[str, int]:
    """Elements of its products, by what goes through them: embeddings and layers take patches, all else tokens."""
    counted = {"per_patch": 0, "per_token": 0}
    for name, module in tower.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            patches = name.startswith(("blocks.", "transformer.", "patch_embed"))
            counted["per_patch" if patches else "per_token"] += module.weight.numel()
    return counted
