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

_TILE = 64  # tokens of a program
# With few tokens there are few programs, and loads must overlap with products within each. With more, two programs of
# a multiprocessor overlap: on an H200, 1,808 tokens take 75 us with one stage, 114 with two (128 tokens a program: 86).
_FEW_TOKENS = 128


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
    queries = TensorDescriptor(q, [tokens, heads * dim], [heads * dim, 1], [_TILE, dim])
    paged = [
        TensorDescriptor(x, [places, kv_heads * dim], [kv_heads * dim, 1], [PAGE_TOKENS, dim]) for x in (keys, values)
    ]
    count = len(pieces.slots)
    scale = dim**-0.5 / math.log(2)  # for exp2 in the place of exp
    grid = heads, triton.cdiv(tokens, _TILE) + count
    launch(
        _attend,
        grid,
        queries,
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
        _TILE,
        triton.next_power_of_2(max(16, len(table))),  # of the engine, so that it is compiled once
        num_warps=4,
        num_stages=2 if tokens <= _FEW_TOKENS else 1,
    )


@triton.jit(
    do_not_specialize=["count", "TABLE"], do_not_specialize_on_alignment=["table", "slots", "starts", "lengths"]
)
def _attend(queries, keys, values, table, slots, starts, lengths, out, count, TABLE, scale, HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, PIECES: tl.constexpr):  # fmt: skip
    """A program takes a tile of a piece's tokens for one query head; of a piece, the tile with most keys first."""
    head, item = tl.program_id(0), tl.program_id(1)
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
        at = length - tokens + tile * TILE  # place of the tile's first token in its sequence
        pages = (tl.minimum(length, at + TILE) + PAGE - 1) // PAGE
        row_table = table + tl.load(slots + piece).to(tl.int64) * TABLE
        query = queries.load([begin + tile * TILE, head * D])
        column = head // (HEADS // KV) * D
        place = at + tl.arange(0, TILE)
        state = tl.full([TILE], float("-inf"), tl.float32), tl.zeros([TILE], tl.float32), tl.zeros([TILE, D], tl.float32)  # fmt: skip
        seen_by_all = (at + 1) // (2 * PAGE)
        for pair in range(0, seen_by_all):
            state = _take_pair(state, query, keys, values, row_table, pair, pages, column, place, scale, PAGE, False)
        for pair in range(seen_by_all, (pages + 1) // 2):
            state = _take_pair(state, query, keys, values, row_table, pair, pages, column, place, scale, PAGE, True)
        token = tile * TILE + tl.arange(0, TILE)
        to = (begin + token).to(tl.int64)[:, None] * (HEADS * D) + head * D + tl.arange(0, D)[None, :]
        tl.store(out + to, (state[2] / state[1][:, None]).to(out.dtype.element_ty), mask=(token < tokens)[:, None])


@triton.jit
def _take_pair(state, query, keys, values, row_table, pair, pages, column, place, scale, PAGE: tl.constexpr, MASK: tl.constexpr):  # fmt: skip
    """Take in the keys and values of two pages, by the running softmax: its maximum, its sum, the weighted values."""
    highest, total, seen = state
    t = tl.arange(0, PAGE)
    one = tl.load(row_table + 2 * pair).to(tl.int32) * PAGE
    # Of an odd number of pages the last one again, which is masked: what another page holds may not be a number.
    two = tl.load(row_table + tl.minimum(2 * pair + 1, pages - 1)).to(tl.int32) * PAGE
    scores_1 = tl.dot(query, tl.trans(keys.load([one, column])))
    scores_2 = tl.dot(query, tl.trans(keys.load([two, column])))
    if MASK:
        first = 2 * pair * PAGE + t[None, :]
        scores_1 = tl.where(first <= place[:, None], scores_1, float("-inf"))
        scores_2 = tl.where(first + PAGE <= place[:, None], scores_2, float("-inf"))
    new = tl.maximum(highest, tl.maximum(tl.max(scores_1, 1), tl.max(scores_2, 1)) * scale)
    weights_1 = tl.exp2(scores_1 * scale - new[:, None])
    weights_2 = tl.exp2(scores_2 * scale - new[:, None])
    shrink = tl.exp2(highest - new)
    total = total * shrink + tl.sum(weights_1, 1) + tl.sum(weights_2, 1)
    seen = tl.dot(weights_1.to(query.dtype), values.load([one, column]), seen * shrink[:, None])
    seen = tl.dot(weights_2.to(query.dtype), values.load([two, column]), seen)
    return new, total, seen
