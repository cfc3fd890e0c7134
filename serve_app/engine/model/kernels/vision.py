"""Triton kernels of the vision tower: pixels to patches, rotary embedding, attention of packed pictures."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from serve_app.engine.model.kernels.launch import launch

# Queries of a program of `attend`, and keys of a tile: several programs share a multiprocessor, so products of one
# overlap with the softmax of another.
_QUERIES, _KEYS = 64, 128


def patchify(
    pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, patch: int, merge: int, out: torch.Tensor
) -> None:
    """Write the normalized patches of a picture, in the order and layout of the family's image processor.

    pixels uint8 (height, width, 3), mean and std float32 (3,), out (patches, 3 * frames * patch * patch).
    The merge x merge patches of one token follow each other; a still picture fills all frames of a patch.
    """
    _, width, _ = pixels.shape
    patches, columns = out.shape
    frames = columns // (3 * patch * patch)
    sizes = patch, merge, frames, columns, triton.next_power_of_2(columns)
    launch(_patchify, (patches,), pixels, mean, std, out, width, *sizes, num_warps=4)


def rotate_halves(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int) -> None:
    """Rotate the queries and keys in qkv (tokens, 3 * heads * dim) in place, in float32.

    cos and sin float32 (tokens, dim / 2): the first half of a head turns against the second.
    """
    tokens, width = qkv.shape
    dim = width // (3 * heads)
    sizes = width, dim, 2 * heads, triton.next_power_of_2(2 * heads)
    launch(_rotate_halves, (tokens,), qkv, cos, sin, *sizes, num_warps=4)


@triton.jit(do_not_specialize=["width"])
def _patchify(
    pixels,
    mean,
    std,
    out,
    width,
    PATCH: tl.constexpr,
    MERGE: tl.constexpr,
    FRAMES: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index, column = tl.program_id(0), tl.arange(0, BLOCK)
    token, within = index // (MERGE * MERGE), index % (MERGE * MERGE)
    tokens_across = width // (PATCH * MERGE)
    row = token // tokens_across * MERGE + within // MERGE
    across = token % tokens_across * MERGE + within % MERGE
    channel, place = column // (FRAMES * PATCH * PATCH), column % (PATCH * PATCH)
    y, x = row * PATCH + place // PATCH, across * PATCH + place % PATCH
    inside = column < COLUMNS
    value = tl.load(pixels + (y * width + x) * 3 + channel, mask=inside, other=0).to(tl.float32) / 255
    value = (value - tl.load(mean + channel, mask=inside, other=0.0)) / tl.load(std + channel, mask=inside, other=1.0)
    tl.store(out + index.to(tl.int64) * COLUMNS + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_halves(qkv, cos, sin, WIDTH: tl.constexpr, DIM: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    HALF: tl.constexpr = DIM // 2
    token, head, pair = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK), tl.arange(0, HALF)
    at = qkv + token * WIDTH + head[:, None] * DIM + pair[None, :]
    used = (head < HEADS)[:, None]
    c, s = tl.load(cos + token * HALF + pair)[None, :], tl.load(sin + token * HALF + pair)[None, :]
    first = tl.load(at, mask=used, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=used, other=0.0).to(tl.float32)
    tl.store(at, (first * c - second * s).to(qkv.dtype.element_ty), mask=used)
    tl.store(at + HALF, (second * c + first * s).to(qkv.dtype.element_ty), mask=used)


def attend(qkv: torch.Tensor, starts: torch.Tensor, longest: int, heads: int) -> torch.Tensor:
    """Every patch sees every patch of its picture: qkv (patches, 3 * heads * dim) to (patches, heads * dim).

    starts int32 (pictures + 1,): the first patch of each picture, and the end; `longest`: patches of the
    largest. For compute capability 9.0, where it takes less than two thirds of FlashAttention 2's time (482 of 789 us
    for 6,400 patches on an H200; 500 with tiles of 64 keys); tiles are read by the tensor memory accelerator.
    """
    patches, width = qkv.shape
    dim = width // (3 * heads)
    out = torch.empty(patches, heads * dim, dtype=qkv.dtype, device=qkv.device)
    queries, keys = (TensorDescriptor(qkv, [patches, width], [width, 1], [rows, dim]) for rows in (_QUERIES, _KEYS))
    scale = dim**-0.5 / math.log(2)  # for exp2 in the place of exp
    grid = triton.cdiv(longest, _QUERIES), heads, len(starts) - 1
    launch(_attend, grid, queries, keys, out, starts, scale, heads, dim, _QUERIES, _KEYS, num_warps=4, num_stages=1)
    return out


@triton.jit
def _attend(queries, keys, out, starts, scale, HEADS: tl.constexpr, DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    first = tl.load(starts + tl.program_id(2))
    length = tl.load(starts + tl.program_id(2) + 1) - first
    if tile * QUERIES < length:
        query = queries.load([first + tile * QUERIES, head * DIM])
        state = tl.full([QUERIES], float("-inf"), tl.float32), tl.zeros([QUERIES], tl.float32), tl.zeros([QUERIES, DIM], tl.float32)  # fmt: skip
        full = length // KEYS * KEYS
        for at in range(0, full, KEYS):
            state = _add_tile(state, query, keys, first + at, head, scale, KEYS, HEADS, DIM, KEYS, False)
        if full < length:  # the last tile holds patches of the next picture too
            state = _add_tile(state, query, keys, first + full, head, scale, length - full, HEADS, DIM, KEYS, True)
        row = tile * QUERIES + tl.arange(0, QUERIES)
        at = (first + row).to(tl.int64)[:, None] * (HEADS * DIM) + head * DIM + tl.arange(0, DIM)[None, :]
        tl.store(out + at, (state[2] / state[1][:, None]).to(out.dtype.element_ty), mask=(row < length)[:, None])


@triton.jit
def _add_tile(state, query, keys, at, head, scale, length, HEADS: tl.constexpr, DIM: tl.constexpr, KEYS: tl.constexpr, MASK: tl.constexpr):  # fmt: skip
    """Add a tile of keys and values to the online softmax: its maximum, its sum and the weighted values."""
    highest, total, seen = state
    scores = tl.dot(query, tl.trans(keys.load([at, (HEADS + head) * DIM])))
    if MASK:
        scores = tl.where((tl.arange(0, KEYS) < length)[None, :], scores, float("-inf"))
    new = tl.maximum(highest, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - new[:, None])
    shrink = tl.exp2(highest - new)
    total = total * shrink + tl.sum(weights, 1)
    value = keys.load([at, (2 * HEADS + head) * DIM])
    return new, total, tl.dot(weights.to(query.dtype), value, seen * shrink[:, None])
