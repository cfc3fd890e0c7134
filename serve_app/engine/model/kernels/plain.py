"""The trunk's operations besides its products in plain torch: the reference for the Triton kernels.

Rounding follows `transformers`' Glm4v text layers: norms in float32, all else in the type of the values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from serve_app.engine.model.batch import Pieces
from serve_app.engine.model.pages import PAGE_TOKENS


def add_norm(x: Tensor | None, residual: Tensor, post: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add x (tokens, hidden), normalized by `post` if given, to `residual` in place; return rms(residual) * weight."""
    if x is not None:
        residual += x if post is None else _rms(x, post, eps)
    return _rms(residual, weight, eps)


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up (tokens, 2 * size), gate first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return up * silu(gate)


def rope_store(qkv: Tensor, cos: Tensor, sin: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Rotate the queries and keys of qkv (tokens, (heads + 2 * kv_heads) * dim); store keys and values at `places`.

    cos and sin (tokens, pairs) rotate the first `pairs` pairs of neighbours of each head. `keys` and `values` are
    (places, kv_heads, dim). Returns the queries (tokens, heads, dim).
    """
    kv_heads, dim = keys.shape[1:]
    heads = qkv.shape[1] // dim - 2 * kv_heads
    q, k, v = qkv.view(-1, heads + 2 * kv_heads, dim).split([heads, kv_heads, kv_heads], dim=1)
    keys[places], values[places] = _rotate(k, cos, sin), v
    return _rotate(q, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pairs = cos.shape[1]
    even, odd = x[..., : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
    c, s = cos[:, None], sin[:, None]
    turned = torch.stack((even * c - odd * s, odd * c + even * s), dim=-1).flatten(-2)
    return torch.cat((turned, x[..., 2 * pairs :]), dim=-1)


def split_rows(lengths: Tensor) -> None:
    """The fused kernel's division of work; there is none here."""


def attend_rows(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    slots: Tensor,
    lengths: Tensor,
    splits: object,
    out: Tensor,
) -> None:
    """Attention of the first tokens of q (tokens, heads, dim), one for each row, to the first `lengths` of its pages.

    `table` (slots, pages) lists the pages of each slot, `slots` (rows,) names each row's, `lengths` is (rows,). The result is
    written to the first rows of out (tokens, heads * dim).
    """
    for row, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        places = _places(table, slot, length)
        out[row : row + 1] = _attend(q[row : row + 1], keys[places], values[places])


def gather_pieces(pieces: Pieces, table: Tensor, dtype: torch.dtype) -> None:
    """What the fused attention needs to know of a step's pieces; nothing is needed here."""


def attend_pieces(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, pieces: Pieces, gathered: object, out: Tensor
) -> None:
    """Attention of the tokens of several prompts' pieces, q (tokens, heads, dim), each to its own prompt's so far.

    The result is written to the pieces' rows of out (tokens, heads * dim).
    """
    starts = pieces.starts.tolist()
    for index, (slot, length) in enumerate(zip(pieces.slots.tolist(), pieces.lengths.tolist(), strict=True)):
        first, end = starts[index], starts[index + 1]
        if first < end:
            places = _places(table, slot, length)
            out[first:end] = _attend(q[first:end], keys[places], values[places])


def reads_pages(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention of pieces reads only tensors, so that a step with pieces can be captured."""
    return False


def _places(table: Tensor, slot: int, length: int) -> Tensor:
    """Where the first tokens of a slot's sequence are in the cache."""
    pages = table[slot, : -(-length // PAGE_TOKENS)].long()
    return (pages[:, None] * PAGE_TOKENS + torch.arange(PAGE_TOKENS, device=table.device)).flatten()[:length]


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last tokens of a sequence to all of it."""
    tokens, length = len(q), len(k)
    seen = torch.arange(length, device=q.device) <= torch.arange(length - tokens, length, device=q.device)[:, None]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)[0].transpose(0, 1).flatten(1)
