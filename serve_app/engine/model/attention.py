"""Attention of the text trunk over slots, registered with `transformers` under its own name.

Two reasons not to use its "sdpa": for an unknown name it builds no mask (ours depends on the slot lengths),
and with a mask it repeats every key and value once per query head of a group, which at GLM's
16 heads to one costs 16 times the traffic. Here the heads of a group stay together instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

SLOT_ATTENTION = "glm_slots"


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    slot_mask: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from new tokens to a slot's tokens.

    query (rows, heads, tokens, dim), key and value (rows, kv_heads, length, dim), slot_mask bool
    (rows or 1, 1, tokens, length), True where allowed; None means causal from the slot's first token.
    Returns (rows, tokens, heads, dim).
    """
    rows, heads, tokens, dim = query.shape
    kv_heads = key.shape[1]
    if tokens == 1:
        # One query token: the heads that share keys take the place of the tokens.
        grouped = query.view(rows, kv_heads, heads // kv_heads, dim)
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=slot_mask, scale=scaling)
        return out.reshape(rows, 1, heads, dim), None
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=slot_mask, scale=scaling, is_causal=slot_mask is None, enable_gqa=True
    )
    return out.transpose(1, 2), None


AttentionInterface.register(SLOT_ATTENTION, slot_attention)
