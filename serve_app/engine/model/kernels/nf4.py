"""NF4 in Triton: the product of a few rows with bitsandbytes' weights, and those weights in 16 bits.

The form: weights row by row, two a byte, the first in the high nibble; a nibble is an index into a table
of 16 values; 64 weights along a row share a float32 scale ("absmax").
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from serve_app.engine.model.kernels import pdl
from serve_app.engine.model.kernels.few_rows import TILE, Split, finish, prefetch, row_tile
from serve_app.engine.model.kernels.launch import launch

# Four bytes to the table's 16-bit values of their high ($0, $1) and their low nibbles ($2, $3).
# $4: the bytes; $5, $9 … $33: the table in eight registers, the upper bytes of its entries, then the lower
# (Triton passes a scalar once for each of the four packed elements). Two byte permutes look four nibbles
# up among entries 0 to 7 and 8 to 15, a third chooses by bit 3: no memory is read.
_LOOK_UP = tl.constexpr("""{ .reg .b32 s, t, s2, t2, a, b, h0, h1, l0, l1;
and.b32 s, $4, 0x77777777; shr.b32 t, $4, 1; lop3.b32 t, t, 0x44444444, 0x32103210, 0xEA;
shr.b32 s2, s, 16; shr.b32 t2, t, 16;
prmt.b32 a, $5, $9, s; prmt.b32 b, $13, $17, s; prmt.b32 h0, a, b, t;
prmt.b32 a, $21, $25, s; prmt.b32 b, $29, $33, s; prmt.b32 l0, a, b, t;
prmt.b32 a, $5, $9, s2; prmt.b32 b, $13, $17, s2; prmt.b32 h1, a, b, t2;
prmt.b32 a, $21, $25, s2; prmt.b32 b, $29, $33, s2; prmt.b32 l1, a, b, t2;
prmt.b32 $0, l0, h0, 0x7351; prmt.b32 $1, l1, h1, 0x7351; prmt.b32 $2, l0, h0, 0x6240; prmt.b32 $3, l1, h1, 0x6240; }""")
_CONSTRAINTS = tl.constexpr("=r,=r,=r,=r,r" + ",r" * 32)
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # there is no PTX then


def table_registers(table: torch.Tensor) -> torch.Tensor:
    """A table of 16 values of 16 bits as int32 (8,): the upper bytes, four a word, then the lower bytes."""
    content = table.cpu().view(torch.int16).view(torch.uint8).view(16, 2)
    return torch.cat([content[:, 1], content[:, 0]]).view(torch.int32).to(table.device)


def multiply(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    table: torch.Tensor,
    registers: torch.Tensor,
    bias: torch.Tensor | None,
    split: Split,
) -> torch.Tensor:
    """Up to 64 rows of x (rows, inputs) times NF4 weights: packed uint8 (outputs, inputs / 2), float32 scales
    (outputs, inputs / 64), the table in x's type and as `table_registers`.
    """
    rows, inputs = x.shape
    outputs = len(packed)
    y = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    grid = split.grid(programs=5, tile=16) if rows == 1 else split.grid(programs=3.5 if rows <= 32 else 1.75)
    partial, finished = split.buffers(rows, grid[1])
    arguments = x, packed, scales, table, registers, y if bias is None else bias, y, partial, finished
    last = grid[1], bias is not None
    if rows == 1:
        dependent = pdl.supported(x.device)
        sizes = outputs, inputs, 16, 8
        options = pdl.options(x.device)
        launch(_multiply_one, grid, *arguments, *sizes, *last, dependent, num_warps=4, **options)
    else:  # a dependent launch makes it slower: 5.9 instead of 4.7 ms for 8 rows of 40 layers on an H200
        launch(
            _multiply, grid, *arguments, rows, outputs, inputs, row_tile(rows), TILE, *last, num_warps=4, num_stages=4
        )
    return y


def dequantize(packed: torch.Tensor, scales: torch.Tensor, table: torch.Tensor, registers: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """The weights (outputs, inputs) in the table's type, rounded once."""
    outputs, half = packed.shape
    weight = torch.empty(outputs, 2 * half, dtype=table.dtype, device=packed.device)
    grid = outputs, triton.cdiv(half, 1024)
    launch(_dequantize, grid, packed, scales, table, registers, weight, half, 1024, num_warps=4)
    return weight


@triton.jit
def _look_up(packed, table, entries):
    """The table's values of the high and of the low nibbles of bytes; `entries` as `_load` gives them."""
    if _INTERPRETED:
        index = packed.to(tl.int32)
        return tl.load(table + (index >> 4)), tl.load(table + (index & 15))
    else:
        high, low = tl.inline_asm_elementwise(
            _LOOK_UP,
            _CONSTRAINTS,
            [packed, entries[0], entries[1], entries[2], entries[3], entries[4], entries[5], entries[6], entries[7]],
            (tl.int16, tl.int16),
            is_pure=True,
            pack=4,
        )
        return high.to(table.dtype.element_ty, bitcast=True), low.to(table.dtype.element_ty, bitcast=True)


@triton.jit
def _load(registers):
    """The eight words of a table, before a loop."""
    upper = tl.load(registers), tl.load(registers + 1), tl.load(registers + 2), tl.load(registers + 3)
    lower = tl.load(registers + 4), tl.load(registers + 5), tl.load(registers + 6), tl.load(registers + 7)
    return upper + lower


@triton.jit(do_not_specialize=["ROWS"])
def _multiply(x, packed, scales, table, registers, bias, y, partial, finished, ROWS, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, ROW_TILE: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr, BIAS: tl.constexpr):  # fmt: skip
    """The sum of each 64 products is multiplied by its scale in float32, so nothing but the table is rounded."""
    GROUPS: tl.constexpr = INPUTS // 64
    ITERATIONS: tl.constexpr = (GROUPS + PARTS - 1) // PARTS
    row, output = tl.arange(0, ROW_TILE), tl.program_id(0) * TILE + tl.arange(0, TILE)
    byte, k, entries = tl.arange(0, 32), tl.arange(0, 64), _load(registers)
    sums = tl.zeros((TILE, ROW_TILE), tl.float32)  # outputs first: a matrix unit takes 64 of them at least
    for iteration in range(ITERATIONS):
        group = tl.program_id(1) * ITERATIONS + iteration
        here = (output < OUTPUTS) & (group < GROUPS)
        at = output[:, None].to(tl.int64) * (INPUTS // 2) + group * 32 + byte[None, :]
        high, low = _look_up(tl.load(packed + at, mask=here[:, None], other=0), table, entries)
        scale = tl.load(scales + output * GROUPS + group, mask=here, other=0.0)
        a = tl.load(x + row[:, None] * INPUTS + group * 64 + k[None, :], mask=(row < ROWS)[:, None] & (group < GROUPS), other=0.0)  # fmt: skip
        even, odd = tl.split(tl.reshape(a, (ROW_TILE, 32, 2)))
        sums += tl.dot(low, tl.trans(odd), tl.dot(high, tl.trans(even))) * scale[:, None]
    finish(tl.trans(sums), y, bias, partial, finished, row, output, ROWS, OUTPUTS, PARTS, BIAS)


@triton.jit
def _multiply_one(x, packed, scales, table, registers, bias, y, partial, finished, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, BIAS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """One row needs no matrix unit: BLOCK groups of 64 per iteration, summed at the end."""
    GROUPS: tl.constexpr = INPUTS // 64
    ITERATIONS: tl.constexpr = (GROUPS + BLOCK * PARTS - 1) // (BLOCK * PARTS)
    output, byte, entries = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, 32), _load(registers)
    prefetch(packed, output, tl.program_id(1) * ITERATIONS * BLOCK * 32, 256, OUTPUTS, INPUTS // 2, 128, PDL)
    pdl.wait(PDL)
    sums = tl.zeros((TILE, BLOCK, 32), tl.float32)
    for iteration in range(ITERATIONS):
        group = (tl.program_id(1) * ITERATIONS + iteration) * BLOCK + tl.arange(0, BLOCK)
        here = (output < OUTPUTS)[:, None] & (group < GROUPS)[None, :]
        at = output[:, None, None].to(tl.int64) * (INPUTS // 2) + group[None, :, None] * 32 + byte[None, None, :]
        high, low = _look_up(tl.load(packed + at, mask=here[:, :, None], other=0), table, entries)
        scale = tl.load(scales + output[:, None] * GROUPS + group[None, :], mask=here, other=0.0)
        k = group[:, None] * 64 + 2 * byte[None, :]
        even = tl.load(x + k, mask=(group < GROUPS)[:, None], other=0.0).to(tl.float32)[None]
        odd = tl.load(x + k + 1, mask=(group < GROUPS)[:, None], other=0.0).to(tl.float32)[None]
        sums += (high.to(tl.float32) * even + low.to(tl.float32) * odd) * scale[:, :, None]
    row = tl.arange(0, 1)
    finish(tl.sum(tl.sum(sums, 2), 1)[None, :], y, bias, partial, finished, row, output, 1, OUTPUTS, PARTS, BIAS)


@triton.jit
def _dequantize(packed, scales, table, registers, weight, HALF: tl.constexpr, BLOCK: tl.constexpr):
    output, byte = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = byte < HALF
    high, low = _look_up(tl.load(packed + output * HALF + byte, mask=inside, other=0), table, _load(registers))
    scale = tl.load(scales + output * (HALF // 32) + byte // 32, mask=inside, other=0.0)
    dtype = weight.dtype.element_ty
    pair = tl.join((high.to(tl.float32) * scale).to(dtype), (low.to(tl.float32) * scale).to(dtype))
    at = tl.program_id(1) * BLOCK * 2 + tl.arange(0, 2 * BLOCK)
    tl.store(weight + output * 2 * HALF + at, tl.reshape(pair, (2 * BLOCK,)), mask=at < 2 * HALF)
