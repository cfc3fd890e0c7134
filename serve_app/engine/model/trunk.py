"""Trunk: the text layers over flat tokens, with the weights of the library's module.

Numbers are those of the unmodified `transformers` modules (Glm4v with norms after attention and MLP too, Glm
without); sums run in another order. Nothing here waits for the device, so a forward pass can be captured.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from serve_app.engine.model.batch import Batch
from serve_app.engine.model.kernels import kernels_for
from serve_app.engine.model.pages import PAGE_TOKENS
from serve_app.engine.model.products import Product, product
from serve_app.engine.model.slots import CacheShape


@dataclass(frozen=True, slots=True)
class Layer:
    """A decoder layer; norms after attention and MLP are None where the family has none."""

    qkv: Product
    output: Product
    gate_up: Product
    down: Product
    before_attention: Tensor
    after_attention: Tensor | None
    before_mlp: Tensor
    after_mlp: Tensor | None


class PagedCache:
    """Keys and values of all layers, (places, kv_heads, dim) each, and the page table of all slots.

    Place = page * PAGE_TOKENS + token of the page. Page 0 belongs to no sequence: idle rows write to it.
    """

    def __init__(self, shape: CacheShape, pages: int, table: Tensor) -> None:
        block = (pages * PAGE_TOKENS, shape.kv_heads, shape.head_dim)
        self.keys, self.values = shape.allocate(block, table.device), shape.allocate(block, table.device)
        self.table = table  # (slots, pages of the longest sequence) int32


class Trunk:
    """The layers of a `language_model` module; `forward` computes what the module computes."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self._kernels = kernels_for(device)
        self._layers = [_layer(layer) for layer in module.layers]
        self._norm: Tensor = module.norm.weight
        self._eps: float = module.norm.variance_epsilon
        frequencies = module.rotary_emb.inv_freq.to(device, torch.float32)
        self._frequencies = frequencies[:, None]  # (pairs, 1)
        sections = getattr(module.rotary_emb, "mrope_section", [len(frequencies)])
        axes = [index % 3 for index, pairs in enumerate(sections) for _ in range(pairs)]
        self._axes = torch.tensor(axes, device=device)  # which axis of a position turns each pair

    def forward(self, embeddings: Tensor, batch: Batch, cache: PagedCache) -> Tensor:
        """Normalized hidden states (tokens, hidden) of embeddings (tokens, hidden), which are overwritten."""
        kernels, residual, eps = self._kernels, embeddings, self._eps
        angles = (batch.positions[self._axes].float() * self._frequencies).T.contiguous()
        cos, sin = angles.cos().to(residual.dtype), angles.sin().to(residual.dtype)
        splits = None if batch.rows is None else kernels.split_rows(batch.rows.lengths)
        pieces, dtype = batch.pieces, cache.keys[0].dtype
        gathered = None if pieces is None else kernels.gather_pieces(pieces, cache.table, dtype)
        y = kernels.add_norm(None, residual, None, self._layers[0].before_attention, eps)
        followers = [layer.before_attention for layer in self._layers[1:]] + [self._norm]
        for index, (layer, following) in enumerate(zip(self._layers, followers, strict=True)):
            keys, values = cache.keys[index], cache.values[index]
            q = kernels.rope_store(layer.qkv(y), cos, sin, batch.places, keys, values)
            attended = self._attend(q, keys, values, batch, cache.table, splits, gathered)
            y = kernels.add_norm(layer.output(attended), residual, layer.after_attention, layer.before_mlp, eps)
            activated = kernels.silu_mul(layer.gate_up(y))
            y = kernels.add_norm(layer.down(activated), residual, layer.after_mlp, following, eps)
        return y  # type: ignore[no-any-return]

    def first_layer(self) -> Trunk:
        """The trunk without the layers after the first: products of the same shapes in a fortieth of the time."""
        first = copy.copy(self)
        first._layers = self._layers[:1]
        return first

    def captures_chunks(self, cache: PagedCache) -> bool:
        """Whether a step with pieces can be captured: its attention depends on nothing that only the host knows."""
        return self._kernels.reads_pages(cache.table.device, cache.keys[0].dtype)  # type: ignore[no-any-return]

    def _attend(
        self, q: Tensor, keys: Tensor, values: Tensor, batch: Batch, table: Tensor, splits: Any, gathered: Any
    ) -> Tensor:
        rows, pieces = batch.rows, batch.pieces
        out = torch.empty_like(q).flatten(1)
        if rows is not None:
            self._kernels.attend_rows(q, keys, values, table, rows.slots, rows.lengths, splits, out)
        if pieces is not None:  # after the rows, which may be padded by some that are pieces
            self._kernels.attend_pieces(q, keys, values, table, pieces, gathered, out)
        return out


def supports(module: Any) -> bool:
    """Whether this module implements the layers of this `language_model`."""
    return bool(module.config.hidden_act == "silu" and module.rotary_emb.attention_scaling == 1.0)


def _layer(module: Any) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    after_attention = getattr(module, "post_self_attn_layernorm", None)
    after_mlp = getattr(module, "post_mlp_layernorm", None)
    return Layer(
        qkv=product(attention.q_proj, attention.k_proj, attention.v_proj),
        output=product(attention.o_proj),
        gate_up=product(mlp.gate_up_proj),
        down=product(mlp.down_proj),
        before_attention=module.input_layernorm.weight,
        after_attention=None if after_attention is None else after_attention.weight,
        before_mlp=module.post_attention_layernorm.weight,
        after_mlp=None if after_mlp is None else after_mlp.weight,
    )
