"""GLM-4V-9B's vision tower: EVA2-CLIP with post-norm layers, a 2x2 convolution and a gated projection.

Written from the June 2024 `visual.py` of THUDM/glm-4v-9b. Parameters keep that file's names, so the
checkpoint's `transformer.vision.*` are this module's own.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers.activations import ACT2FN


@dataclass(frozen=True, slots=True)
class EvaClipShape:
    """Sizes of the tower; all but the last two are those of the checkpoint's `vision_config`."""

    image_size: int
    patch_size: int
    in_channels: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_heads: int
    num_positions: int
    layer_norm_eps: float
    scaling_factor: float
    hidden_act: str
    out_size: int  # hidden size of the text trunk
    out_intermediate_size: int  # and of its feed-forward layers

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Features of one picture: 2x2 patches each, and the learned tokens before and after them."""
        return (self.grid // 2) ** 2 + 2


class EvaClip(nn.Module):
    """Normalised pictures (pictures, 3, image_size, image_size) to features (pictures, tokens, out_size)."""

    def __init__(self, shape: EvaClipShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embedding = PatchEmbedding(shape)
        # Nothing is normalised before the first layer or after the last.
        layers = nn.Sequential(*(Layer(shape) for _ in range(shape.num_hidden_layers)))
        self.transformer = nn.Sequential(OrderedDict(layers=layers))
        self.conv = nn.Conv2d(shape.hidden_size, shape.out_size, kernel_size=2, stride=2)
        self.linear_proj = GatedProjection(shape.out_size, shape.out_intermediate_size)
        self.boi = nn.Parameter(torch.zeros(1, 1, shape.out_size))
        self.eoi = nn.Parameter(torch.zeros(1, 1, shape.out_size))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pictures = pixels.shape[0]
        patches = self.transformer(self.patch_embedding(pixels))[:, 1:]  # without the class token
        planes = patches.transpose(1, 2).unflatten(2, (self.shape.grid, self.shape.grid))
        features = self.linear_proj(self.conv(planes).flatten(2).transpose(1, 2))
        borders = self.boi.expand(pictures, -1, -1), self.eoi.expand(pictures, -1, -1)
        return torch.cat((borders[0], features, borders[1]), dim=1) / self.shape.scaling_factor


class PatchEmbedding(nn.Module):
    """Patches and a class token, each with its learned position."""

    def __init__(self, shape: EvaClipShape) -> None:
        super().__init__()
        side = shape.patch_size
        self.proj = nn.Conv2d(shape.in_channels, shape.hidden_size, kernel_size=side, stride=side)
        self.cls_embedding = nn.Parameter(torch.zeros(1, shape.hidden_size))
        self.position_embedding = nn.Embedding(shape.num_positions, shape.hidden_size)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        class_token = self.cls_embedding.expand(pixels.shape[0], 1, -1)
        return torch.cat((class_token, patches), dim=1) + self.position_embedding.weight


class Layer(nn.Module):
    """Post-norm: the output of a block is normalised, then added, despite the names that the norms have."""

    def __init__(self, shape: EvaClipShape) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.attention = Attention(shape)
        self.mlp = FeedForward(shape)
        self.post_attention_layernorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.input_layernorm(self.attention(hidden))
        return hidden + self.post_attention_layernorm(self.mlp(hidden))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over all patches."""

    def __init__(self, shape: EvaClipShape) -> None:
        super().__init__()
        self.heads = shape.num_heads
        self.query_key_value = nn.Linear(shape.hidden_size, 3 * shape.hidden_size)
        self.dense = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        thirds = self.query_key_value(hidden).unflatten(2, (3, self.heads, -1))
        query, key, value = thirds.permute(2, 0, 3, 1, 4)  # (pictures, heads, patches, head_dim) each
        seen = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.dense(seen)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two products with the configured activation (GELU) between them."""

    def __init__(self, shape: EvaClipShape) -> None:
        super().__init__()
        self.activation = ACT2FN[shape.hidden_act]
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden)))  # type: ignore[no-any-return]


class GatedProjection(nn.Module):
    """From the tower's width, already widened by the convolution, into the text trunk."""

    def __init__(self, size: int, intermediate_size: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(size, size, bias=False)
        self.norm1 = nn.LayerNorm(size)
        self.act1 = nn.GELU()
        self.dense_h_to_4h = nn.Linear(size, intermediate_size, bias=False)
        self.gate_proj = nn.Linear(size, intermediate_size, bias=False)
        self.dense_4h_to_h = nn.Linear(intermediate_size, size, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.act1(self.norm1(self.linear_proj(features)))
        gated = silu(self.gate_proj(features)) * self.dense_h_to_4h(features)
        return self.dense_4h_to_h(gated)  # type: ignore[no-any-return]
