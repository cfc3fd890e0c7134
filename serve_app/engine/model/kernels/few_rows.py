"""Products of a few rows in Triton: what FP8 and NF4 weights share in dividing the work among programs."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

MOST_ROWS = 64  # beyond, cuBLAS is faster
TILE = 64  # outputs of one program, except where a kernel has its own


class Split:
    """Divides the inputs of a product among programs, so that few outputs still occupy all multiprocessors.

    Each program writes a partial sum; the last of a tile to finish adds them up in their order, so the
    result does not depend on which one that is.
    """

    def __init__(self, outputs: int, device: torch.device) -> None:
        self._outputs = outputs
        self._multiprocessors = _multiprocessors(device)
        self._finished = torch.zeros(outputs // 16 + 1, dtype=torch.int32, device=device)  # zero after each product

    def grid(self, programs: float, tile: int = TILE) -> tuple[int, int]:
        """Tiles of outputs and parts of the inputs, for at least this many programs per multiprocessor."""
        tiles = triton.cdiv(self._outputs, tile)
        return tiles, triton.next_power_of_2(triton.cdiv(int(programs * self._multiprocessors), tiles))

    def buffers(self, rows: int, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Partial sums and counts of finished programs, for `finish`."""
        if parts == 1:
            return self._finished, self._finished
        return torch.empty(parts * rows * self._outputs, device=self._finished.device), self._finished


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def row_tile(rows: int) -> int:
    """Rows of one program, a power of two and at least 16, which is what a matrix unit takes."""
    return max(16, triton.next_power_of_2(rows))


@triton.jit
def prefetch(weight, output, first, SPAN: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, LINE: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Prefetch the first SPAN weights of a program's outputs into the L2 cache, LINE weights (128 bytes) at a time.

    Weights do not depend on the step, so a dependent launch prefetches them before it waits for its input.
    """
    if PDL:
        line = tl.minimum(first + tl.arange(0, SPAN // LINE) * LINE, INPUTS - 1)
        at = weight + tl.minimum(output, OUTPUTS - 1)[:, None].to(tl.int64) * INPUTS + line[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def finish(sums, y, bias, partial, finished, row, output, ROWS, OUTPUTS: tl.constexpr, PARTS: tl.constexpr, BIAS: tl.constexpr):  # fmt: skip
    """Store the sums of a tile (row, output) to y, once all parts of it are there, with the bias."""
    inside = (row[:, None] < ROWS) & (output[None, :] < OUTPUTS)
    at = row[:, None] * OUTPUTS + output[None, :]
    last = True
    if PARTS > 1:
        tl.store(partial + tl.program_id(1) * ROWS * OUTPUTS + at, sums, mask=inside)
        tl.debug_barrier()  # all of the program's threads have stored before it counts as finished
        last = tl.atomic_add(finished + tl.program_id(0), 1, sem="acq_rel") == PARTS - 1
        if last:
            tl.store(finished + tl.program_id(0), 0)
            sums = tl.zeros_like(sums)
            for part in tl.static_range(PARTS):
                sums += tl.load(partial + part * ROWS * OUTPUTS + at, mask=inside, other=0.0, cache_modifier=".cg")
    if last:
        if BIAS:
            sums += tl.load(bias + output, mask=output < OUTPUTS, other=0.0).to(tl.float32)[None, :]
        tl.store(y + at, sums.to(y.dtype.element_ty), mask=inside)
