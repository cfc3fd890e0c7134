"""FP8 in Triton: rows rounded with a scale each, and the product of a few of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from serve_app.engine.model.kernels import pdl
from serve_app.engine.model.kernels.few_rows import TILE, Split, finish, prefetch, row_tile
from serve_app.engine.model.kernels.launch import launch

# FP8 matrix units of compute capability 9.0 add with 14 bits: this many products, then their sum in float32.
_IMPRECISE = tl.constexpr(128)


def quantize_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8_e4m3fn (rows, columns) and float32 scales (rows, 1) of contiguous values (rows, columns)."""
    rows, columns = values.shape
    rounded = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=values.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=values.device)
    device = values.device
    sizes = columns, triton.next_power_of_2(columns), pdl.supported(device)
    launch(_quantize_rows, (rows,), values, rounded, scales, *sizes, num_warps=8, **pdl.options(device))
    return rounded, scales


def multiply(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    split: Split,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Up to 64 rows of x (rows, inputs) times weight (outputs, inputs), both as `quantize_rows` gives them."""
    rows, inputs = x.shape
    outputs = len(weight)
    y = torch.empty(rows, outputs, dtype=dtype, device=x.device)
    grid = split.grid(programs=0.5)
    partial, finished = split.buffers(rows, grid[1])
    tile = row_tile(rows)
    block, stages = (128, 6) if tile == 64 else (256, 4)  # two programs of this size fit a multiprocessor's memory
    pointers = x, x_scales, weight, scales, y if bias is None else bias, y, partial, finished
    sizes = rows, outputs, inputs, tile, TILE, block, grid[1], bias is not None, pdl.supported(x.device)
    launch(_multiply, grid, *pointers, *sizes, num_warps=4, num_stages=stages, **pdl.options(x.device))
    return y


@triton.jit
def _quantize_rows(values, rounded, scales, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    pdl.wait(PDL)
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < COLUMNS
    value = tl.load(values + row * COLUMNS + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value)), 1e-12) / 448.0
    tl.store(scales + row, scale)
    tl.store(rounded + row * COLUMNS + column, (value / scale).to(tl.float8e4nv), mask=inside)


@triton.jit(do_not_specialize=["ROWS"])
def _multiply(x, x_scales, weight, scales, bias, y, partial, finished, ROWS, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, ROW_TILE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, BIAS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    ITERATIONS: tl.constexpr = (INPUTS + BLOCK * PARTS - 1) // (BLOCK * PARTS)
    row, output = tl.arange(0, ROW_TILE), tl.program_id(0) * TILE + tl.arange(0, TILE)
    prefetch(weight, output, tl.program_id(1) * ITERATIONS * BLOCK, 2 * BLOCK, OUTPUTS, INPUTS, 128, PDL)
    pdl.wait(PDL)
    sums = tl.zeros((TILE, ROW_TILE), tl.float32)  # outputs first: a matrix unit takes 64 of them at least
    for iteration in range(ITERATIONS):
        k = (tl.program_id(1) * ITERATIONS + iteration) * BLOCK + tl.arange(0, BLOCK)
        at = output[:, None].to(tl.int64) * INPUTS + k[None, :]
        w = tl.load(weight + at, mask=(output < OUTPUTS)[:, None] & (k < INPUTS)[None, :], other=0.0)
        a = tl.load(x + row[:, None] * INPUTS + k[None, :], mask=(row < ROWS)[:, None] & (k < INPUTS)[None, :], other=0.0)  # fmt: skip
        sums = tl.dot(w, tl.trans(a), sums, max_num_imprecise_acc=_IMPRECISE)
    sums *= tl.load(scales + output, mask=output < OUTPUTS, other=0.0)[:, None]
    sums *= tl.load(x_scales + row, mask=row < ROWS, other=0.0)[None, :]
    finish(tl.trans(sums), y, bias, partial, finished, row, output, ROWS, OUTPUTS, PARTS, BIAS)
