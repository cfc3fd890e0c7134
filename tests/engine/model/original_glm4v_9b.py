"""GLM-4V-9B once more, in plain torch over the checkpoint's own names, and random folders of its layout.

Written from the description of the 2024 code, without a cache and without a module of the engine: what
the port is compared with.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, silu

from serve_app.contracts import Picture, Prompt, Sampling

BOI, EOI, PAD, STOP = 10, 11, 0, [0, 7, 9]
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

SMALL: dict[str, Any] = {  # every width a multiple of 64, as NF4 on a CPU wants it
    "model_type": "chatglm",
    "num_layers": 2,
    "padded_vocab_size": 512,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "kv_channels": 16,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "seq_length": 128,
    "layernorm_epsilon": 1.5625e-07,
    "boi_token_id": BOI,
    "eoi_token_id": EOI,
    "pad_token_id": PAD,
    "eos_token_id": STOP,
    "vision_config": {
        "hidden_act": "gelu",
        "in_channels": 3,
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "patch_size": 14,
        "num_heads": 4,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-06,
        "num_positions": 17,
        "image_size": 56,
        "scaling_factor": 8,
    },
    "torch_dtype": "float32",
}


def changed(config: dict[str, Any], vision: dict[str, Any] | None = None, **text: Any) -> dict[str, Any]:
    """A config with other values; None takes a key away."""
    merged = config | text | {"vision_config": config["vision_config"] | (vision or {})}
    return {key: value for key, value in merged.items() if value is not None}


def key_value_heads(config: dict[str, Any]) -> int:
    heads: int = config["num_attention_heads"]
    return int(config["multi_query_group_num"]) if config.get("multi_query_attention") else heads


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the original layout."""
    hidden, ffn, vocab = config["hidden_size"], config["ffn_hidden_size"], config["padded_vocab_size"]
    heads, dim = config["num_attention_heads"], config["kv_channels"]
    rows = (heads + 2 * key_value_heads(config)) * dim
    vision = config["vision_config"]
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    found: dict[str, tuple[int, ...]] = {
        "embedding.word_embeddings.weight": (vocab, hidden),
        "rotary_pos_emb.inv_freq": (dim // 4,),
        "encoder.final_layernorm.weight": (hidden,),
        "output_layer.weight": (vocab, hidden),
        "vision.boi": (1, 1, hidden),
        "vision.eoi": (1, 1, hidden),
        "vision.patch_embedding.cls_embedding": (1, width),
        "vision.patch_embedding.proj.weight": (width, vision["in_channels"], patch, patch),
        "vision.patch_embedding.proj.bias": (width,),
        "vision.patch_embedding.position_embedding.weight": (vision["num_positions"], width),
        "vision.conv.weight": (hidden, width, 2, 2),
        "vision.conv.bias": (hidden,),
        "vision.linear_proj.linear_proj.weight": (hidden, hidden),
        "vision.linear_proj.norm1.weight": (hidden,),
        "vision.linear_proj.norm1.bias": (hidden,),
        "vision.linear_proj.gate_proj.weight": (ffn, hidden),
        "vision.linear_proj.dense_h_to_4h.weight": (ffn, hidden),
        "vision.linear_proj.dense_4h_to_h.weight": (hidden, ffn),
    }
    for index in range(config["num_layers"]):
        layer = f"encoder.layers.{index}"
        found |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attention.query_key_value.weight": (rows, hidden),
            f"{layer}.self_attention.dense.weight": (hidden, heads * dim),
            f"{layer}.mlp.dense_h_to_4h.weight": (2 * ffn, hidden),
            f"{layer}.mlp.dense_4h_to_h.weight": (hidden, ffn),
        }
        if config.get("add_qkv_bias"):
            found[f"{layer}.self_attention.query_key_value.bias"] = (rows,)
    for index in range(vision["num_hidden_layers"]):
        layer = f"vision.transformer.layers.{index}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found |= {f"{layer}.{norm}.weight": (width,), f"{layer}.{norm}.bias": (width,)}
        for product, sizes in {
            "attention.query_key_value": (3 * width, width),
            "attention.dense": (width, width),
            "mlp.fc1": (inner, width),
            "mlp.fc2": (width, inner),
        }.items():
            found |= {f"{layer}.{product}.weight": sizes, f"{layer}.{product}.bias": sizes[:1]}
    return {f"transformer.{name}": shape for name, shape in found.items()}


def write_folder(folder: Path, config: dict[str, Any] = SMALL, seed: int = 0, shards: int = 1) -> Path:
    """Random weights of a scale at which answers differ from prompt to prompt."""
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(config).items():
        values = torch.randn(shape, generator=random)
        if "norm" in name and name.endswith(".weight"):
            weights[name] = 1 + values / 10
        elif len(shape) > 1 and "embedding" not in name:
            weights[name] = values / math.sqrt(math.prod(shape[1:]))
        else:
            weights[name] = values if "word_embeddings" in name else values / 10
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder, weights, shards)
    return folder


def write_weights(folder: Path, weights: dict[str, Tensor], shards: int = 1, index: bool = True) -> None:
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return
    places = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(weights.items())[number::shards])
        save_file(part, folder / name)
        places |= dict.fromkeys(part, name)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


class Original:
    """The model as its description has it, one sequence at a time, all of it computed again for every token."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self._weights = load_file(folder / "model.safetensors")

    def _w(self, name: str) -> Tensor:
        return self._weights[f"transformer.{name}"]

    @property
    def patches(self) -> int:
        vision = self.config["vision_config"]
        return int((vision["image_size"] // vision["patch_size"] // 2) ** 2)

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised pictures (pictures, 3, side, side) to (pictures, patches + 2, hidden)."""
        vision = self.config["vision_config"]
        heads, eps = vision["num_heads"], vision["layer_norm_eps"]
        patch = "vision.patch_embedding"
        x = conv2d(pixels, self._w(f"{patch}.proj.weight"), self._w(f"{patch}.proj.bias"), stride=vision["patch_size"])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self._w(f"{patch}.cls_embedding").expand(len(x), 1, -1), x], dim=1)
        x = x + self._w(f"{patch}.position_embedding.weight")
        for index in range(vision["num_hidden_layers"]):
            layer = f"vision.transformer.layers.{index}"
            qkv = self._affine(f"{layer}.attention.query_key_value", x)
            query, key, value = (
                part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
            )
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
            seen = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
            x = x + self._normalized(f"{layer}.input_layernorm", self._affine(f"{layer}.attention.dense", seen), eps)
            inner = gelu(self._affine(f"{layer}.mlp.fc1", x))
            x = x + self._normalized(f"{layer}.post_attention_layernorm", self._affine(f"{layer}.mlp.fc2", inner), eps)
        grid = vision["image_size"] // vision["patch_size"]
        planes = x[:, 1:].reshape(len(x), grid, grid, -1).permute(0, 3, 1, 2)
        x = conv2d(planes, self._w("vision.conv.weight"), self._w("vision.conv.bias"), stride=2)
        x = linear(x.flatten(2).transpose(1, 2), self._w("vision.linear_proj.linear_proj.weight"))
        x = gelu(self._normalized("vision.linear_proj.norm1", x, 1e-5))
        gate = silu(linear(x, self._w("vision.linear_proj.gate_proj.weight")))
        x = gate * linear(x, self._w("vision.linear_proj.dense_h_to_4h.weight"))
        x = linear(x, self._w("vision.linear_proj.dense_4h_to_h.weight"))
        marks = [self._w(f"vision.{mark}").expand(len(x), -1, -1) for mark in ("boi", "eoi")]
        return torch.cat([marks[0], x, marks[1]], dim=1) / vision["scaling_factor"]

    def logits(self, ids: list[int], features: Tensor | None = None) -> Tensor:
        """Logits (tokens, vocab) of ids with one placeholder between the marks; features (patches + 2, hidden)."""
        x = self._w("embedding.word_embeddings.weight")[torch.tensor(ids)]
        positions = list(range(len(ids)))
        if features is not None:
            begin = ids.index(self.config["boi_token_id"])
            assert ids[begin + 2] == self.config["eoi_token_id"]
            x = torch.cat([x[:begin], features, x[begin + 3 :]])
            positions[begin + 1 : begin + 2] = [begin + 1] * self.patches
        rotation = self._rotation(positions)
        for index in range(self.config["num_layers"]):
            x = self._layer(f"encoder.layers.{index}", x, rotation)
        return linear(self._rms("encoder.final_layernorm", x), self._w("output_layer.weight"))

    def greedy(self, ids: list[int], features: Tensor | None, count: int) -> tuple[list[int], Tensor]:
        """The likeliest tokens one after the other, and the logits (count, vocab) they were drawn from."""
        drawn: list[int] = []
        steps = []
        for _ in range(count):
            steps.append(self.logits([*ids, *drawn], features)[-1])
            drawn.append(int(steps[-1].argmax()))
        return drawn, torch.stack(steps)

    def _rotation(self, positions: list[int]) -> Tensor:
        """Complex unit numbers (tokens, 1, pairs)."""
        rotated = self.config["kv_channels"] // 2
        base = 10000 * self.config.get("rope_ratio", 1)
        angles = torch.outer(torch.tensor(positions).float(), base ** (-torch.arange(0, rotated, 2) / rotated))
        return torch.polar(torch.ones_like(angles), angles)[:, None]

    def _layer(self, layer: str, x: Tensor, rotation: Tensor) -> Tensor:
        heads, groups, dim = (
            self.config["num_attention_heads"],
            key_value_heads(self.config),
            self.config["kv_channels"],
        )
        attention = f"{layer}.self_attention"
        normal = self._rms(f"{layer}.input_layernorm", x)
        qkv = linear(normal, self._w(f"{attention}.query_key_value.weight"))
        if self.config.get("add_qkv_bias"):
            qkv = qkv + self._w(f"{attention}.query_key_value.bias")
        query, key, value = qkv.split([heads * dim, groups * dim, groups * dim], dim=-1)
        query = _rotated(query.reshape(-1, heads, dim), rotation)
        key = _rotated(key.reshape(-1, groups, dim), rotation).repeat_interleave(heads // groups, dim=1)
        value = value.reshape(-1, groups, dim).repeat_interleave(heads // groups, dim=1)
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(dim)
        later = torch.ones(len(x), len(x)).triu(1).bool()
        seen = torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -math.inf).softmax(-1), value).flatten(1)
        x = x + linear(seen, self._w(f"{attention}.dense.weight"))
        normal = self._rms(f"{layer}.post_attention_layernorm", x)
        gate, up = linear(normal, self._w(f"{layer}.mlp.dense_h_to_4h.weight")).chunk(2, dim=-1)
        return x + linear(silu(gate) * up, self._w(f"{layer}.mlp.dense_4h_to_h.weight"))

    def _rms(self, name: str, x: Tensor) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + self.config.get("layernorm_epsilon", 1e-5)).rsqrt()
        return x * scale * self._w(f"{name}.weight")

    def _affine(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self._w(f"{name}.weight"), self._w(f"{name}.bias"))

    def _normalized(self, name: str, x: Tensor, eps: float) -> Tensor:
        return layer_norm(x, x.shape[-1:], self._w(f"{name}.weight"), self._w(f"{name}.bias"), eps)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """The first half of each head turned pair by pair; the second half as it is."""
    half = x.shape[-1] // 2
    pairs = torch.view_as_complex(x[..., :half].reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.cat([torch.view_as_real(pairs * rotation).flatten(-2), x[..., half:]], dim=-1)


def write_expected(folder: Path, seed: int = 0, new_tokens: int = 12) -> None:
    """What the original gives for a random picture and prompt, in the layout of the parity folders."""
    model = Original(folder)
    random = torch.Generator().manual_seed(seed)
    side, vocab = model.config["vision_config"]["image_size"], model.config["padded_vocab_size"]
    pixels = torch.randn(1, 3, side, side, generator=random)
    text = torch.randint(12, vocab, (9,), generator=random).tolist()
    ids = [*text[:4], BOI, PAD, EOI, *text[4:]]
    features = model.features(pixels)
    drawn, steps = model.greedy(ids, features[0], new_tokens)
    expected = {
        "input_ids": torch.tensor([ids]),
        "pixel_values": pixels,
        "vision_features": features,
        "logits": model.logits(ids, features[0])[None],
        "greedy_ids": torch.tensor(drawn),
        "greedy_logits": steps,
        "position_fed": torch.arange(len(ids) - 1, len(ids) - 1 + new_tokens),
        "text_only_input_ids": torch.tensor([text]),
        "text_only_logits": model.logits(text)[None],
    }
    save_file({name: values.contiguous() for name, values in expected.items()}, folder / "expected.safetensors")


def normalized(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (side, side, 3) to (1, 3, side, side), as the original tokenizer does it."""
    planes = torch.tensor(pixels).permute(2, 0, 1) / 255
    return ((planes - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None]


def prompt(
    name: str, rng: np.random.Generator, config: dict[str, Any], text: int, picture: bool, **sampling: Any
) -> tuple[Prompt, list[int]]:
    """A prompt of random text around a random picture or none, and its ids with one placeholder a picture."""
    vocab, vision = config["padded_vocab_size"], config["vision_config"]
    ids = rng.integers(12, vocab, text).tolist()
    rules = Sampling(**{"max_tokens": 8, "temperature": 0.0, **sampling})
    if not picture:
        return Prompt(name, np.array(ids, dtype=np.int32), (), rules, deadline_s=600.0), ids
    side = vision["image_size"]
    patches = (side // vision["patch_size"] // 2) ** 2
    pixels = rng.integers(0, 255, (side, side, 3)).astype(np.uint8)
    shown = Picture(pixels, pixels.tobytes().hex()[:64], patches + 2, (side, side))
    expanded = [*ids[:2], BOI, *[PAD] * patches, EOI, *ids[2:]]
    short = [*ids[:2], BOI, PAD, EOI, *ids[2:]]
    return Prompt(name, np.array(expanded, dtype=np.int32), (shown,), rules, deadline_s=600.0), short
