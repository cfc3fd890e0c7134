"""The product of up to eight rows with 16-bit weights in Triton, which starts while the last kernel ends."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from serve_app.engine.model.kernels import pdl
from serve_app.engine.model.kernels.few_rows import Split, finish, prefetch, row_tile
from serve_app.engine.model.kernels.launch import launch

MOST_ROWS = 8  # beyond, cuBLAS is faster
_TILE = 64  # outputs of a program
_BLOCK, _STAGES = 128, 5  # inputs per iteration, iterations in flight
_PROGRAMS = 1.5  # per multiprocessor, at least
_AHEAD = 2  # iterations whose weights are prefetched before the input is ready


def multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, split: Split) -> torch.Tensor:
    """Up to 8 rows of x (rows, inputs) times weight (outputs, inputs), both in one 16-bit type; sums in float32."""
    rows, inputs = x.shape
    outputs = len(weight)
    y = x.new_empty(rows, outputs)
    grid = split.grid(_PROGRAMS, _TILE)
    partial, finished = split.buffers(rows, grid[1])
    dependent = pdl.supported(x.device)
    pointers = x, weight, y if bias is None else bias, y, partial, finished
    sizes = rows, outputs, inputs, row_tile(rows), _TILE, _BLOCK, grid[1], bias is not None, _AHEAD, dependent
    launch(_multiply, grid, *pointers, *sizes, num_warps=4, num_stages=_STAGES, **pdl.options(x.device))
    return y


@triton.jit(do_not_specialize=["ROWS"])
def _multiply(x, weight, bias, y, partial, finished, ROWS, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, ROW_TILE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, BIAS: tl.constexpr, AHEAD: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    ITERATIONS: tl.constexpr = (INPUTS + BLOCK * PARTS - 1) // (BLOCK * PARTS)
    row, output = tl.arange(0, ROW_TILE), tl.program_id(0) * TILE + tl.arange(0, TILE)
    first = tl.program_id(1) * ITERATIONS * BLOCK
    of_output = weight + tl.minimum(output, OUTPUTS - 1)[:, None].to(tl.int64) * INPUTS
    prefetch(weight, output, first, AHEAD * BLOCK, OUTPUTS, INPUTS, 64, PDL)
    pdl.wait(PDL)
    sums = tl.zeros((ROW_TILE, TILE), tl.float32)
    for iteration in range(ITERATIONS):
        k = first + iteration * BLOCK + tl.arange(0, BLOCK)
        w = tl.load(of_output + k[None, :], mask=(k < INPUTS)[None, :], other=0.0)
        a = tl.load(x + row[:, None] * INPUTS + k[None, :], mask=(row < ROWS)[:, None] & (k < INPUTS)[None, :], other=0.0)  # fmt: skip
        sums = tl.dot(a, tl.trans(w), sums)
    finish(sums, y, bias, partial, finished, row, output, ROWS, OUTPUTS, PARTS, BIAS)
