"""The trunk's operations besides its products as Triton kernels; plain.py has the same in torch.

Sums are in float32; values are rounded where `plain` rounds them. One launch handles any number of tokens.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from serve_app.engine.model.batch import Pieces
from serve_app.engine.model.kernels import pdl, plain
from serve_app.engine.model.kernels import pieces as paged_pieces
from serve_app.engine.model.kernels.launch import is_compile_only, launch
from serve_app.engine.model.kernels.pieces import reads_pages
from serve_app.engine.model.pages import PAGE_TOKENS

# A kernel is compiled for each combination of its constants. None depends on a step's number of tokens or on its
# exact number of rows, and arguments that may have any alignment are named, so no kernel is compiled while requests are served.
_MAX_SPLITS = 64  # parts of one row's keys
_ROWS = 64  # kernels of rows are compiled for so many, or the next power of two: one for each would take 5 s at a start
_RESIDENT = 8  # programs of the attention kernel per multiprocessor
_compiled: dict[tuple[Any, ...], Any] = {}


def add_norm(x: Tensor | None, residual: Tensor, post: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """As `plain.add_norm`."""
    rows, hidden = residual.shape
    y = torch.empty_like(residual)
    block = triton.next_power_of_2(hidden)
    x_or_none = residual if x is None else x
    constants = (hidden, block, x is not None, post is not None)
    args = (x_or_none, residual, weight if post is None else post, weight, y, eps)
    _launch(_add_norm, (rows,), args, constants, num_warps=8 if block > 2048 else 4)
    return y


@triton.jit
def _add_norm(x, residual, post, weight, y, eps, H: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, POST: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    pdl.wait(PDL)
    at = tl.program_id(0).to(tl.int64) * H
    c = tl.arange(0, BLOCK)
    m = c < H
    dtype = y.dtype.element_ty
    r = tl.load(residual + at + c, mask=m, other=0.0).to(tl.float32)
    if ADD:
        v = tl.load(x + at + c, mask=m, other=0.0).to(tl.float32)
        if POST:
            v = (v * tl.rsqrt(tl.sum(v * v) / H + eps)).to(dtype).to(tl.float32)
            v = (v * tl.load(post + c, mask=m, other=0.0).to(tl.float32)).to(dtype).to(tl.float32)
        r = (r + v).to(dtype).to(tl.float32)
        tl.store(residual + at + c, r.to(dtype), mask=m)
    n = (r * tl.rsqrt(tl.sum(r * r) / H + eps)).to(dtype).to(tl.float32)
    tl.store(y + at + c, (n * tl.load(weight + c, mask=m, other=0.0).to(tl.float32)).to(dtype), mask=m)


def silu_mul(gate_up: Tensor) -> Tensor:
    """As `plain.silu_mul`."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    y = gate_up.new_empty(rows, size)
    _launch(_silu_mul, (rows, triton.cdiv(size, 1024)), (gate_up, y), (size, 1024), num_warps=4)
    return y


@triton.jit
def _silu_mul(gate_up, y, SIZE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    pdl.wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m = c < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + c, mask=m, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + c, mask=m, other=0.0).to(tl.float32)
    act = (gate / (1.0 + tl.exp(-gate))).to(y.dtype.element_ty).to(tl.float32)
    tl.store(y + row * SIZE + c, (up * act).to(y.dtype.element_ty), mask=m)


def rope_store(qkv: Tensor, cos: Tensor, sin: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As `plain.rope_store`."""
    tokens, (kv_heads, dim) = len(qkv), keys.shape[1:]
    heads = qkv.shape[1] // dim - 2 * kv_heads
    q = qkv.new_empty(tokens, heads, dim)
    block = 4  # heads per program
    grid = (tokens, triton.cdiv(heads + 2 * kv_heads, block))
    constants = (heads, kv_heads, dim, cos.shape[1], block)
    _launch(_rope_store, grid, (qkv, cos, sin, places, q, keys, values), constants, num_warps=1)
    return q


@triton.jit(do_not_specialize_on_alignment=["places"])
def _rope_store(qkv, cos, sin, places, q, keys, values, HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    pdl.wait(PDL)
    token = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    d, p = tl.arange(0, D), tl.arange(0, D // 2)
    dtype = q.dtype.element_ty
    place = tl.load(places + token).to(tl.int64)
    x = tl.load(qkv + (token * (HEADS + 2 * KV) + h)[:, None] * D + d[None, :], mask=(h < HEADS + 2 * KV)[:, None], other=0.0)  # fmt: skip
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (BLOCK, D // 2, 2)))
    rotated = (h < HEADS + KV)[:, None] & (p < PAIRS)[None, :]
    c = tl.load(cos + token * PAIRS + p, mask=p < PAIRS, other=1.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * PAIRS + p, mask=p < PAIRS, other=0.0).to(tl.float32)[None, :]
    # Each product and each sum is rounded, as in the library.
    a = (even * c).to(dtype).to(tl.float32) - (odd * s).to(dtype).to(tl.float32)
    b = (odd * c).to(dtype).to(tl.float32) + (even * s).to(dtype).to(tl.float32)
    x = tl.reshape(tl.join(tl.where(rotated, a, even), tl.where(rotated, b, odd)), (BLOCK, D)).to(dtype)
    tl.store(q + (token * HEADS + h)[:, None] * D + d[None, :], x, mask=(h < HEADS)[:, None])
    key, value = h - HEADS, h - HEADS - KV
    tl.store(keys + (place * KV + key)[:, None] * D + d[None, :], x, mask=((key >= 0) & (key < KV))[:, None])
    tl.store(values + (place * KV + value)[:, None] * D + d[None, :], x, mask=((value >= 0) & (value < KV))[:, None])


def split_rows(lengths: Tensor) -> Tensor:
    """How the rows' keys are divided among programs: ends (rows,) of each row's parts in one list of all parts.

    A row has as many parts as `chunk` pages ask for, at most 64; once a step, for all layers.
    """
    rows = len(lengths)
    ends = torch.empty(rows, dtype=torch.int32, device=lengths.device)
    constants = (max(_ROWS, triton.next_power_of_2(rows)), PAGE_TOKENS, _MAX_SPLITS)
    _launch(_split_rows, (1,), (lengths, ends, rows, _chunk(rows)), constants)
    return ends


@triton.jit
def _span(length, chunk, PAGE: tl.constexpr, SPLITS: tl.constexpr):
    """Pages of a row, and pages per part: parts are about equal, of at most `chunk` pages unless there would be too many."""
    pages = (length + PAGE - 1) // PAGE
    parts = tl.minimum((pages + chunk - 1) // chunk, SPLITS)
    return pages, tl.maximum((pages + parts - 1) // tl.maximum(parts, 1), 1)


@triton.jit(do_not_specialize=["rows", "chunk"], do_not_specialize_on_alignment=["lengths", "ends"])
def _split_rows(lengths, ends, rows, chunk, ROWS: tl.constexpr, PAGE: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    pdl.wait(PDL)
    r = tl.arange(0, ROWS)
    pages, span = _span(tl.load(lengths + r, mask=r < rows, other=0), chunk, PAGE, SPLITS)
    tl.store(ends + r, tl.cumsum((pages + span - 1) // span, 0), mask=r < rows)


def attend_rows(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, slots: Tensor, lengths: Tensor, splits: Tensor, out: Tensor
) -> None:
    """As `plain.attend_rows`; `splits` is what `split_rows` gave for these lengths."""
    rows, (_, heads, dim) = len(slots), q.shape
    kv_heads = keys.shape[1]
    chunk = _chunk(rows)
    parts = rows * min(_MAX_SPLITS, triton.cdiv(table.shape[1], chunk))
    part = torch.empty(parts, heads, dim, dtype=torch.float32, device=q.device)
    weight = torch.empty(parts, heads, dtype=torch.float32, device=q.device)
    group = heads // kv_heads
    programs = min(parts, triton.cdiv(_multiprocessors(q.device) * _RESIDENT, kv_heads))
    scale = dim**-0.5 * 1.4426950408889634  # exp2 instead of exp
    precision = "ieee" if q.dtype == torch.float32 else "tf32"
    padded = max(16, triton.next_power_of_2(group))  # of which the matrix units want 16
    of_rows = max(_ROWS, triton.next_power_of_2(rows))
    constants = (kv_heads, group, padded, dim, PAGE_TOKENS, _MAX_SPLITS, of_rows, precision)
    args = (q, keys, values, table, slots, lengths, splits, part, weight, rows, chunk, table.shape[1], scale)
    _launch(_attend_rows, (programs, kv_heads), args, constants, num_warps=4, num_stages=3)
    _launch(_combine, (rows, heads), (part, weight, splits, out), (heads, dim, 16), num_warps=2)


@triton.jit(do_not_specialize=["rows", "chunk", "TABLE"], do_not_specialize_on_alignment=["slots", "lengths"])
def _attend_rows(q, keys, values, table, slots, lengths, ends, part, weight, rows, chunk, TABLE, scale, KV: tl.constexpr, GROUP: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Each program takes parts in turn: the keys of some pages, for the query heads that share them."""
    pdl.wait(PDL)
    kv = tl.program_id(1)
    r, g, d, t = tl.arange(0, ROWS), tl.arange(0, G), tl.arange(0, D), tl.arange(0, PAGE)
    all_ends = tl.load(ends + r, mask=r < rows, other=2147483647)
    heads = kv * GROUP + g
    for item in range(tl.program_id(0), tl.load(ends + rows - 1), tl.num_programs(0)):
        row = tl.sum((all_ends <= item).to(tl.int32), 0)
        before = tl.max(tl.where(r < row, all_ends, 0), 0)  # parts of the rows before
        length = tl.load(lengths + row).to(tl.int32)
        pages, span = _span(length, chunk, PAGE, SPLITS)
        first = (item - before) * span
        row_table = table + tl.load(slots + row).to(tl.int64) * TABLE
        x = tl.load(q + (row * KV * GROUP + heads)[:, None] * D + d[None, :], mask=(g < GROUP)[:, None], other=0.0)
        top = tl.full((G,), -1e30, tl.float32)
        total = tl.zeros((G,), tl.float32)
        acc = tl.zeros((G, D), tl.float32)
        for page in range(first, tl.minimum(first + span, pages)):
            at = (tl.load(row_table + page).to(tl.int64) * PAGE + t) * KV + kv
            k = tl.load(keys + at[:, None] * D + d[None, :])
            v = tl.load(values + at[:, None] * D + d[None, :])
            s = tl.dot(x, tl.trans(k), input_precision=PRECISION) * scale
            s = tl.where((page * PAGE + t)[None, :] < length, s, -1e30)
            new = tl.maximum(top, tl.max(s, 1))
            w = tl.exp2(s - new[:, None])
            old = tl.exp2(top - new)
            total = total * old + tl.sum(w, 1)
            acc = acc * old[:, None] + tl.dot(w.to(v.dtype), v, input_precision=PRECISION)
            top = new
        o = item * KV * GROUP + heads
        tl.store(part + o.to(tl.int64)[:, None] * D + d[None, :], acc / total[:, None], mask=(g < GROUP)[:, None])
        tl.store(weight + o, top + tl.log2(total), mask=g < GROUP)


@triton.jit
def _combine(part, weight, ends, out, HEADS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """The weighted sum of a row's parts."""
    pdl.wait(PDL)
    row, head = tl.program_id(0), tl.program_id(1)
    d, b = tl.arange(0, D), tl.arange(0, BLOCK)
    first = tl.load(ends + row - 1, mask=row > 0, other=0)
    last = tl.load(ends + row)
    top = -1e30
    total = 0.0
    acc = tl.zeros((D,), tl.float32)
    for item in range(first, last, BLOCK):
        i = ((item + b) * HEADS + head).to(tl.int64)
        w = tl.load(weight + i, mask=item + b < last, other=-1e30)
        x = tl.load(part + i[:, None] * D + d[None, :], mask=(item + b < last)[:, None], other=0.0)
        new = tl.maximum(top, tl.max(w, 0))
        old = tl.exp2(top - new)
        w = tl.exp2(w - new)
        acc = acc * old + tl.sum(w[:, None] * x, 0)
        total = total * old + tl.sum(w, 0)
        top = new
    tl.store(out + (row * HEADS + head).to(tl.int64) * D + d, (acc / total).to(out.dtype.element_ty))


def gather_pieces(pieces: Pieces, table: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    """What FlashAttention 2 needs to know of a step's pieces, once for all layers; None where it is not used.

    Places (tokens to attend to,) int64, then where each piece begins among the pieces' tokens and among the
    places, int32 (pieces + 1,).
    """
    if table.device.type != "cuda" or dtype == torch.float32 or reads_pages(table.device, dtype):
        return None
    assert pieces.sizes is not None, "only steps that are not captured gather keys"
    ends = pieces.lengths.cumsum(0)
    key_starts = torch.cat((ends.new_zeros(1), ends))
    total = sum(length for _, length in pieces.sizes)
    piece = torch.repeat_interleave(torch.arange(len(ends), device=ends.device), pieces.lengths, output_size=total)
    at = torch.arange(total, device=ends.device) - key_starts[piece]
    places = table[pieces.slots[piece], at // PAGE_TOKENS].long() * PAGE_TOKENS + at % PAGE_TOKENS
    return places, (pieces.starts - pieces.starts[0]).int(), key_starts.int()


def attend_pieces(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, pieces: Pieces, gathered: Any, out: Tensor
) -> None:
    """As `plain.attend_pieces`; `gathered` is what `gather_pieces` gave for these pieces."""
    if gathered is not None:
        _flash_attend(q, keys, values, pieces, gathered, out)
    elif reads_pages(q.device, q.dtype):
        paged_pieces.attend(q, keys, values, table, pieces, out)
    else:
        plain.attend_pieces(q, keys, values, table, pieces, None, out)


def _flash_attend(q: Tensor, keys: Tensor, values: Tensor, pieces: Pieces, gathered: Any, out: Tensor) -> None:
    """Attention of pieces by torch's FlashAttention 2."""
    assert pieces.sizes is not None
    places, starts, key_starts = gathered
    new, longest, longest_key = sum(n for n, _ in pieces.sizes), *(max(s) for s in zip(*pieces.sizes, strict=True))
    rows = len(q) - new
    k, v = keys.index_select(0, places), values.index_select(0, places)
    # What torch.nn.attention.varlen.varlen_attn calls; its own checks take 60 us of the host, 40 times a step.
    flash = torch.ops.aten._flash_attention_forward
    attended = flash(q[rows:], k, v, starts, key_starts, longest, longest_key, 0.0, True, False)[0]
    out[rows:].copy_(attended.flatten(1))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _launch(
    kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: tuple[Any, ...], **options: int
) -> None:
    """Launch a kernel, by its compiled form once there is one: Triton inspects every argument at each launch, which takes 15 us.

    That is safe since no kernel is compiled for properties of its arguments other than those in the key: tensors
    are aligned as torch allocates them, or named in `do_not_specialize_on_alignment`.
    """
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
    constants = *constants, pdl.supported(device)
    key = (id(kernel), constants, *(arg.dtype for arg in args if isinstance(arg, Tensor)))
    compiled = _compiled.get(key)
    if compiled is None or is_compile_only():
        compiled = launch(kernel, grid, *args, *constants, **options, **pdl.options(device))
        if not is_compile_only():
            _compiled[key] = compiled  # None in Triton's interpreter
    else:
        compiled[(*grid, 1, 1)[:3]](*args, *constants)


def _chunk(rows: int) -> int:
    """Pages per part: few rows are divided more finely, so that all multiprocessors have work."""
    return 2 if rows <= 8 else 6 if rows <= 32 else 12
