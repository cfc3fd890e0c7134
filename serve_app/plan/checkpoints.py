"""Sizes of a checkpoint from its config.json: weights, cache of a token, tokens of a picture, operations.

configs/ holds the parts of the supported checkpoints' config.json that decide sizes, so that a plan needs no download.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from serve_app.engine.model.compressed_tensors import CompressedTensors
from serve_app.engine.model.families.glm4v_9b import Glm4v9bAdapter, empty_network
from serve_app.engine.model.footprint import Sizes
from serve_app.engine.model.slots import CacheShape
from serve_app.engine.model.weights import checkpoint_dtype
from serve_app.errors import InvalidRequest
from serve_app.model_families import ModelFamily, model_family
from serve_app.preprocess.glm4v_grid import AspectRatioTooLarge, Glm4vGrid

CONFIGS: Final = {file.stem: file for file in sorted(Path(__file__).with_name("configs").glob("*.json"))}
PATCHES_PER_TOKEN: Final = 4  # in both families 2 x 2 patches become one token
# From preprocessor_config.json of GLM-4.1V-9B-Thinking and GLM-4.6V-Flash.
_GRID: Final = Glm4vGrid(shortest_edge=12_544, longest_edge=9_633_792)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Sizes in elements and tokens; operations are floating-point operations (a multiply-add counts as two)."""

    family: ModelFamily
    sizes: Sizes
    head: int  # elements of lm_head, which every step reads
    attention_width: int  # heads x head_dim of the text layers
    tower_layers: int
    tower_width: int
    per_patch: int  # elements of the tower's matrices that each patch is multiplied with
    per_token: int  # and of those that each token is multiplied with, after patches were merged
    longest_context: int
    grid: Glm4vGrid | None  # None: every picture is resized to one square
    square_tokens: int = 0

    def picture_tokens(self, width: int, height: int, most: int) -> int:
        """Tokens of a picture of this size in pixels; at most `most` where the family can scale pictures down."""
        if self.grid is None:
            return self.square_tokens
        try:
            return self.grid.tokens(*self.grid.size(width, height, most))
        except AspectRatioTooLarge as error:
            raise InvalidRequest(
                f"A picture of {width} x {height} is refused, because one side is more than 200 times the other.",
                param="--picture",
            ) from error

    def encode_operations(self, tokens: int) -> float:
        """Operations of the vision tower for a picture of this many tokens, attention included."""
        patches = PATCHES_PER_TOKEN * tokens
        products = 2.0 * (patches * self.per_patch + tokens * self.per_token)
        return products + 4.0 * self.tower_layers * self.tower_width * patches**2

    def prefill_operations(self, tokens: int) -> float:
        """Operations of the text layers for a prompt of this many tokens, causal attention included."""
        return 2.0 * tokens * self.sizes.text_linear + 2.0 * self.sizes.cache.layers * self.attention_width * tokens**2


def read_checkpoint(model: str) -> Checkpoint:
    """Read a model folder, or the stored config of a known hub id, whoever publishes it. Raises InvalidRequest."""
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family = model_family(config, folder, param="--model")
        return of_config(config, None if family.square_pictures else Glm4vGrid.of_checkpoint(folder))
    file = CONFIGS.get(folder.name.lower())
    if file is None:
        raise InvalidRequest(
            f"{model!r} is neither a folder with a config.json nor one of the known models ({', '.join(CONFIGS)})."
            " Download the model and give its folder.",
            param="--model",
        )
    return of_config(json.loads(file.read_text(encoding="utf-8")), _GRID)


def of_config(config: dict[str, Any], grid: Glm4vGrid | None) -> Checkpoint:
    """Count over the loader's own network, built without weights. Raises InvalidRequest."""
    family = model_family(config, "the plan", param="--model")
    if CompressedTensors.of(config, "--model") is not None:  # expanded while loading
        config = {name: value for name, value in config.items() if name != "quantization_config"}
    elif config.get("quantization_config"):
        raise InvalidRequest(
            "The checkpoint is stored quantized, and config.json does not give its sizes. Plan with the unquantized"
            " release and --quantization.",
            param="--model",
        )
    return _glm_4v_9b(family, config) if family.weight_layout == "original" else _glm4v(family, config, grid or _GRID)


def _glm_4v_9b(family: ModelFamily, config: dict[str, Any]) -> Checkpoint:
    adapter = Glm4v9bAdapter(empty_network(config), config, _dtype(config))
    vision = config["vision_config"]
    return Checkpoint(
        family=family,
        sizes=Sizes.of(adapter.model, adapter.cache_shape, None),
        head=adapter.model.lm_head.weight.numel(),
        attention_width=int(config["num_attention_heads"]) * adapter.cache_shape.head_dim,
        tower_layers=int(vision["num_hidden_layers"]),
        tower_width=int(vision["hidden_size"]),
        **_tower_elements(adapter.model.visual),
        longest_context=adapter.max_context_tokens,
        grid=None,
        square_tokens=adapter.model.visual.shape.tokens,
    )


def _glm4v(family: ModelFamily, config: dict[str, Any], grid: Glm4vGrid) -> Checkpoint:
    from transformers import AutoConfig, AutoModelForImageTextToText  # the import takes seconds

    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    parsed = AutoConfig.for_model(config["model_type"], **fields)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(parsed)
    text, vision = parsed.text_config, parsed.vision_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = CacheShape(text.num_hidden_layers, text.num_key_value_heads, head_dim, _dtype(config))
    return Checkpoint(
        family=family,
        sizes=Sizes.of(network, cache, None),
        head=network.lm_head.weight.numel(),
        attention_width=text.num_attention_heads * head_dim,
        tower_layers=vision.depth,
        tower_width=vision.hidden_size,
        **_tower_elements(network.model.visual),
        longest_context=text.max_position_embeddings,
        grid=grid,
    )


def _dtype(config: dict[str, Any]) -> torch.dtype:
    stored = checkpoint_dtype(config)
    return torch.bfloat16 if stored == torch.float32 else stored  # a GPU computes in 16 bits


def _tower_elements(tower: nn.Module) -> dict[str, int]:
    """Elements of the tower's matrices: embeddings and layers are applied to patches, all others to tokens."""
    elements = {"per_patch": 0, "per_token": 0}
    for name, module in tower.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            is_per_patch = name.startswith(("blocks.", "transformer.", "patch_embed"))
            elements["per_patch" if is_per_patch else "per_token"] += module.weight.numel()
    return elements
