"""Adapter of GLM-4V-9B (2024): the library's GLM trunk and an EVA2-CLIP tower, original checkpoint.

The checkpoint's own code (`modeling_chatglm.py`, June 2024) does not run on transformers 5 and is not
needed: parameters are mapped to its names, and its rules are kept. Note that all patches of a picture share
one position, the one after the begin token (vLLM issue 14790).
"""

from __future__ import annotations

import base64
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import GlmConfig, GlmModel
from transformers.activations import ACT2FN

from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.model.attention import SLOT_ATTENTION
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.families.eva_clip import EvaClip, EvaClipShape
from serve_app.engine.model.quantization import Quantization
from serve_app.engine.model.shards import fill_weights, read_json
from serve_app.engine.model.slots import CacheShape
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.errors import ContextTooLong, EngineFailed, InvalidRequest

# CLIP's values, which the code of the checkpoint's tokenizer uses; no config file contains them.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

# Stored in the checkpoint, but computed from the config.
IGNORED = ("transformer.rotary_pos_emb.inv_freq",)

_ORIGINAL_NAMES = (
    (r"^visual\.", "transformer.vision."),
    (r"^lm_head\.", "transformer.output_layer."),
    (r"^language_model\.embed_tokens\.", "transformer.embedding.word_embeddings."),
    (r"^language_model\.norm\.", "transformer.encoder.final_layernorm."),
    (r"^language_model\.layers\.", "transformer.encoder.layers."),
    (r"\.self_attn\.[qkv]_proj\.", ".self_attention.query_key_value."),
    (r"\.self_attn\.o_proj\.", ".self_attention.dense."),
    (r"\.mlp\.gate_up_proj\.", ".mlp.dense_h_to_4h."),
    (r"\.mlp\.down_proj\.", ".mlp.dense_4h_to_h."),
)

# Options of the original code that no published checkpoint uses otherwise.
_SUPPORTED_VALUES = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "original_rope": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "tie_word_embeddings": False,
    "quantization_config": None,
}


class Glm4v9bNetwork(nn.Module):
    """Trunk, tower and head; `original_name` maps the parameter names to the checkpoint's."""

    def __init__(self, text: GlmConfig, vision: EvaClipShape) -> None:
        super().__init__()
        self.language_model = GlmModel(text)
        self.visual = EvaClip(vision)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)


class Glm4v9bAdapter(ModelAdapter):
    """Adapter of the family; methods are documented in `ModelAdapter`."""

    model_type = "chatglm"
    position_axes = 1

    def __init__(self, network: Glm4v9bNetwork, config: dict[str, Any], dtype: torch.dtype) -> None:
        self.model, self.text_layers = network, network.language_model
        self.dtype = dtype
        self.image_marker_ids = int(config["boi_token_id"]), int(config["eoi_token_id"])  # before and after a picture
        eos = config.get("eos_token_id")
        self.stop_ids = frozenset([eos] if isinstance(eos, int) else eos or [])
        text, vision = network.language_model.config, network.visual.shape
        self.device = network.lm_head.weight.device
        self.vocab_size: int = text.vocab_size
        self.cache_shape = CacheShape(text.num_hidden_layers, text.num_key_value_heads, text.head_dim, dtype)
        self._positions: int = text.max_position_embeddings
        self._picture_tokens = vision.tokens
        self._shared = vision.tokens - 3  # a picture takes so many positions less than tokens: 1602 tokens, 3 positions
        self.max_context_tokens = self._positions + self._shared
        self._side = vision.image_size
        self._mean = torch.tensor(PIXEL_MEAN, device=self.device)[:, None, None]
        self._std = torch.tensor(PIXEL_STD, device=self.device)[:, None, None]

    @classmethod
    def load(
        cls, folder: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device, quantization: Quantization
    ) -> Glm4v9bAdapter:
        """Read a folder in the original layout; raises `InvalidRequest` if it cannot be loaded."""
        network = empty_network(config)
        unquantized_modules = quantization.unquantized_modules("lm_head", "visual")
        quantization.replace_linears(network, dtype, unquantized_modules)
        fill_weights(network, folder, original_name, IGNORED, dtype, device)
        generation = folder / "generation_config.json"
        eos = read_json(generation).get("eos_token_id") if generation.is_file() else None
        return cls(network.eval(), config if eos is None else config | {"eos_token_id": eos}, dtype)

    @staticmethod
    def vocabulary(folder: Path, size: int) -> Vocabulary:
        """The bytes of tokens from `tokenizer.model`: lines of base64 and id (tiktoken's format).

        Ids that it lacks are markers, named in `tokenizer_config.json`, or padding: no bytes.
        """
        table, names = [b""] * size, {}
        try:
            for line in (folder / "tokenizer.model").read_bytes().split(b"\n"):
                if line:
                    token, rank = line.split()
                    table[int(rank)] = base64.b64decode(token, validate=True)
        except (OSError, ValueError, IndexError) as error:
            raise InvalidRequest(f"tokenizer.model could not be read: {error}.", param="model.path") from error
        if not any(table):
            raise InvalidRequest("tokenizer.model holds no tokens.", param="model.path")
        tokenizer = folder / "tokenizer_config.json"
        if tokenizer.is_file():
            added = read_json(tokenizer).get("added_tokens_decoder", {})
            names = {token["content"]: int(index) for index, token in added.items() if int(index) < size}
        return Vocabulary(table, names)

    def encode(self, picture: Picture) -> torch.Tensor:
        if picture.pixels.shape != (self._side, self._side, 3):
            raise EngineFailed(f"A picture has to be {self._side}x{self._side} pixels, not {picture.pixels.shape}.")
        pixels = torch.tensor(picture.sent_pixels(), device=self.device)  # a copy: what came through Ray is read-only
        planes = pixels.permute(2, 0, 1).float() / 255
        normal = ((planes - self._mean) / self._std).to(self.dtype)
        return self.model.visual(normal[None])[0]  # type: ignore[no-any-return]

    def image_mask(self, prompt: Prompt) -> NDArray[np.bool_]:
        places = np.zeros(len(prompt.token_ids), dtype=np.bool_)
        if prompt.pictures:
            start = self._image_start(prompt)
            places[start : start + self._picture_tokens] = True
        return places

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        tokens = len(prompt.token_ids)
        positions, delta = np.arange(tokens, dtype=np.int64), 0
        if prompt.pictures:
            patches = self._image_start(prompt) + 1
            after = patches + self._picture_tokens - 2  # the end token
            positions[patches:after] = patches
            positions[after:] -= self._shared
            delta = -self._shared
        answer = prompt.sampling.max_tokens or 0
        if tokens + delta + answer > self._positions:
            raise ContextTooLong(
                f"The prompt takes {tokens + delta} positions and the answer may take {answer}; "
                f"the model has {self._positions}.",
                param="messages",
            )
        return positions[None], delta

    def _image_start(self, prompt: Prompt) -> int:
        """Index of the begin token of the prompt's only picture."""
        if len(prompt.pictures) > 1:
            raise EngineFailed("GLM-4V-9B supports one picture a conversation.")
        begins, ends = (np.flatnonzero(prompt.token_ids == marker) for marker in self.image_marker_ids)
        if len(begins) != 1 or ends.tolist() != [begins[0] + self._picture_tokens - 1]:
            raise EngineFailed(
                f"The prompt marks pictures from {begins.tolist()} to {ends.tolist()}; "
                f"its one picture takes {self._picture_tokens} tokens."
            )
        return int(begins[0])

    def probe(self) -> Prompt:
        pixels = np.full((self._side, self._side, 3), 128, dtype=np.uint8)
        picture = Picture(pixels, "probe", self._picture_tokens, (self._side, self._side))
        text = max(self.stop_ids, default=0)
        begin, end = self.image_marker_ids
        token_ids = np.array([text, begin, *[text] * (self._picture_tokens - 2), end, text], dtype=np.int32)
        return Prompt("probe", token_ids, (picture,), Sampling(max_tokens=3, temperature=0.0), deadline_s=600.0)

    def sample_pictures(self, most_tokens: int) -> list[Picture]:
        return list(self.probe().pictures)


def empty_network(config: dict[str, Any]) -> Glm4v9bNetwork:
    """The network that a `config.json` describes, on the meta device; raises `InvalidRequest` for another."""
    if "vision_config" not in config:
        raise InvalidRequest(
            "config.json has no vision_config. GLM-4V-9B is the only supported chatglm model.", param="model.path"
        )
    for key, value in _SUPPORTED_VALUES.items():
        if config.get(key, value) != value:
            raise InvalidRequest(
                f"config.json has {key} {config[key]!r}; only {value!r} is supported.", param="model.path"
            )
    try:
        vision = _vision_shape(config)
        with torch.device("meta"):
            network = Glm4v9bNetwork(_text_config(config), vision)
        int(config["boi_token_id"]), int(config["eoi_token_id"])
    except KeyError as error:
        raise InvalidRequest(f"config.json lacks {error}.", param="model.path") from error
    except Exception as error:  # any error of torch or transformers for wrong values
        raise InvalidRequest(f"config.json does not describe a GLM-4V-9B: {error}.", param="model.path") from error
    if vision.num_positions != vision.grid**2 + 1:
        raise InvalidRequest(
            f"config.json gives the tower {vision.num_positions} positions for {vision.grid}x{vision.grid} patches.",
            param="model.path",
        )
    network.language_model.set_attn_implementation(SLOT_ATTENTION)
    return network.requires_grad_(False)


def original_name(name: str) -> str:
    """The checkpoint's tensor of a parameter of `Glm4v9bNetwork`."""
    for ours, theirs in _ORIGINAL_NAMES:
        name = re.sub(ours, theirs, name)
    return name


def _text_config(config: dict[str, Any]) -> GlmConfig:
    """The trunk's config; what is left out has the default of the original `ChatGLMConfig`."""
    heads = config["num_attention_heads"]
    grouped = config.get("multi_query_attention", False)
    return GlmConfig(
        vocab_size=config["padded_vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["ffn_hidden_size"],
        num_hidden_layers=config["num_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("multi_query_group_num", 1) if grouped else heads,
        head_dim=config.get("kv_channels", 128) or config["hidden_size"] // heads,
        max_position_embeddings=config["seq_length"],
        rms_norm_eps=config.get("layernorm_epsilon", 1e-5),
        attention_bias=config.get("add_qkv_bias", False),
        pad_token_id=None,  # the embedding would treat it apart, in training only
        eos_token_id=config.get("eos_token_id"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0 * config.get("rope_ratio", 1),
            "partial_rotary_factor": 0.5,
        },
    )


def _vision_shape(config: dict[str, Any]) -> EvaClipShape:
    vision = config["vision_config"]
    if vision["hidden_act"] not in ACT2FN:
        raise ValueError(f"the tower has an unknown hidden_act {vision['hidden_act']!r}")
    own = [field.name for field in fields(EvaClipShape) if not field.name.startswith("out_")]
    return EvaClipShape(
        **{name: vision[name] for name in own},
        out_size=config["hidden_size"],
        out_intermediate_size=config["ffn_hidden_size"],
    )
