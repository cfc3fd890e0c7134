"""Triton kernel of a prompt's attention: pieces of prompts over the pages of their sequences.

For compute capability 9.0. Keys and values are read from their pages by the tensor memory accelerator, so nothing is
gathered first, and no constant or grid depends on the lengths, so a step with pieces can be captured in a graph.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from serve_app.engine.model.batch import Pieces
from serve_app.engine.model.kernels.launch import launch
from serve_app.engine.model.pages import PAGE_TOKENS

_PROGRAM_HEADS, _TILE = 4, 16  # query heads and tokens of a program; the heads share keys and values
# With one stage, several programs share a multiprocessor and their loads and products overlap, which is better if there
# are many programs. Otherwise each program loads ahead. On an H200, 74 new tokens of 1,870 take 25 us with five stages,
# 30 with two; a prompt of 1,808 takes 56 with one, 68 with five. Steps of 1,024 tokens take the same with both.
MANY_TOKENS = 1152


@functools.cache
def reads_pages(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `attend` computes on this device and type; else keys and values are gathered for FlashAttention 2."""
    if device.type != "cuda":
        return False
    return dtype != torch.float32 and torch.cuda.get_device_capability(device)[0] == 9


def attend(q: Tensor, keys: Tensor, values: Tensor, table: Tensor, pieces: Pieces, out: Tensor) -> None:
    """As `plain.attend_pieces`: q (tokens, heads, dim) to out (tokens, heads * dim), for the tokens of the pieces."""
    tokens, heads, dim = q.shape
    places, kv_heads, _ = keys.shape
    paged = [
        TensorDescriptor(x, [places, kv_heads * dim], [kv_heads * dim, 1], [PAGE_TOKENS, dim]) for x in (keys, values)
    ]
    count = len(pieces.slots)
    scale = dim**-0.5 / math.log(2)  # for exp2 in the place of exp
    program_heads = math.gcd(heads // kv_heads, _PROGRAM_HEADS)
    tile = _TILE * _PROGRAM_HEADS // program_heads
    launch(
        _attend,
        (heads // program_heads, triton.cdiv(tokens, tile) + count),
        q,
        *paged,
        table,
        pieces.slots,
        pieces.starts,
        pieces.lengths,
        out,
        count,
        table.shape[1],
        scale,
        heads,
        kv_heads,
        dim,
        PAGE_TOKENS,
        program_heads,
        tile,
        triton.next_power_of_2(max(16, len(table))),  # of the engine, so that it is compiled once
        num_warps=4,
        num_stages=1 if tokens > MANY_TOKENS else 5,
    )


@triton.jit(
    do_not_specialize=["count", "TABLE"], do_not_specialize_on_alignment=["table", "slots", "starts", "lengths"]
)
def _attend(q, keys, values, table, slots, starts, lengths, out, count, TABLE, scale, HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, PROGRAM_HEADS: tl.constexpr, TILE: tl.constexpr, PIECES: tl.constexpr):  # fmt: skip
    """A program computes a tile of a piece's tokens for some query heads; within a piece, the tile with the most keys is first."""
    head, item = tl.program_id(0) * PROGRAM_HEADS, tl.program_id(1)
    p = tl.arange(0, PIECES)
    first = tl.load(starts + p, mask=p < count, other=0)
    ends = tl.cumsum((tl.load(starts + p + 1, mask=p < count, other=0) - first + TILE - 1) // TILE, 0)
    if item < tl.max(ends, 0):
        piece = tl.sum((ends <= item).to(tl.int32), 0)
        before = tl.max(tl.where(p < piece, ends, 0), 0)  # tiles of the pieces before
        begin = tl.load(starts + piece).to(tl.int32)
        tokens = tl.load(starts + piece + 1).to(tl.int32) - begin
        tile = (tokens + TILE - 1) // TILE - 1 - (item - before).to(tl.int32)
        length = tl.load(lengths + piece).to(tl.int32)
        row_table = table + tl.load(slots + piece).to(tl.int64) * TABLE
        r = tl.arange(0, PROGRAM_HEADS * TILE)  # all tokens of the first head, then of the next
        token = tile * TILE + r % TILE
        at = (begin + token).to(tl.int64)[:, None] * (HEADS * D) + (head + r // TILE)[:, None] * D + tl.arange(0, D)
        inside = (token < tokens)[:, None]
        query = tl.load(q + at, mask=inside, other=0.0)
        column = head // (HEADS // KV) * D
        first_place = length - tokens + tile * TILE  # place of the tile's first token in its sequence
        place = first_place + r % TILE
        state = tl.full([PROGRAM_HEADS * TILE], float("-inf"), tl.float32), tl.zeros([PROGRAM_HEADS * TILE], tl.float32), tl.zeros([PROGRAM_HEADS * TILE, D], tl.float32)  # fmt: skip
        seen_by_all = (first_place + 1) // PAGE
        for page in range(0, seen_by_all):
            state = _add_page(state, query, keys, values, row_table, page, column, place, scale, PAGE, False)
        for page in range(seen_by_all, (tl.minimum(length, first_place + TILE) + PAGE - 1) // PAGE):
            state = _add_page(state, query, keys, values, row_table, page, column, place, scale, PAGE, True)
        tl.store(out + at, (state[2] / state[1][:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_page(state, query, keys, values, row_table, page, column, place, scale, PAGE: tl.constexpr, MASK: tl.constexpr):  # fmt: skip
    """Add the keys and values of a page to the online softmax: its maximum, its sum and the weighted values."""
    highest, total, seen = state
    first = tl.load(row_table + page).to(tl.int32) * PAGE
    scores = tl.dot(query, tl.trans(keys.load([first, column])))
    if MASK:
        scores = tl.where((page * PAGE + tl.arange(0, PAGE))[None, :] <= place[:, None], scores, float("-inf"))
    new = tl.maximum(highest, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - new[:, None])
    shrink = tl.exp2(highest - new)
    total = total * shrink + tl.sum(weights, 1)
    return new, total, tl.dot(weights.to(query.dtype), values.load([first, column]), seen * shrink[:, None])
