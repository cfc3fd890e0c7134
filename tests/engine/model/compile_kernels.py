"""Compiles all Triton kernels, in the 9B models' shapes, for a GPU that need not be here.

    python -m tests.engine.model.compile_kernels 9.0 [THREADS]

Its output is JSON: the names of the compiled kernels, and seconds. Triton gets a driver that knows the GPU's
compute capability only, and the functions of `serve_app/engine/model/kernels` get tensors on the CPU.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from serve_app.engine.model.batch import Pieces
from serve_app.engine.model.kernels import bf16, few_rows, fp8, fused, nf4, pdl, pieces, vision
from serve_app.engine.model.kernels.launch import compile_ahead
from serve_app.engine.model.pages import PAGE_TOKENS

HIDDEN, HEADS, KV_HEADS, DIM, INTERMEDIATE, PAIRS = 4096, 32, 2, 128, 13_696, 32
VISION_HEADS, VISION_DIM = 12, 128
SLOTS, PAGES = 64, 4
TYPE = torch.bfloat16
CPU = torch.device("cpu")


class Driver:
    """What Triton's compiler asks a driver for."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def run_trunk(reads_pages: bool) -> None:
    """The kernels of a step with rows, and where there are any for pieces, of one with short and long pieces."""
    residual, weight = torch.zeros(8, HIDDEN, dtype=TYPE), torch.zeros(HIDDEN, dtype=TYPE)
    fused.add_norm(None, residual, None, weight, 1e-5)
    fused.add_norm(residual, residual, weight, weight, 1e-5)
    fused.silu_mul(torch.zeros(8, 2 * INTERMEDIATE, dtype=TYPE))
    keys, values = (torch.zeros(PAGES * PAGE_TOKENS, KV_HEADS, DIM, dtype=TYPE) for _ in range(2))
    table = torch.zeros(SLOTS + 1, PAGES, dtype=torch.int32)
    for tokens in (8, pieces.MANY_TOKENS + 1):
        qkv = torch.zeros(tokens, (HEADS + 2 * KV_HEADS) * DIM, dtype=TYPE)
        turn = torch.zeros(tokens, PAIRS, dtype=TYPE)
        places = torch.zeros(tokens, dtype=torch.int64)
        q = fused.rope_store(qkv, turn, turn, places, keys, values)
        if reads_pages:
            one = torch.tensor([0]), torch.tensor([0, tokens]), torch.tensor([tokens])
            pieces.attend(q, keys, values, table, Pieces(*one, None), torch.empty_like(q).flatten(1))
    lengths, slots = torch.ones(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)
    splits = fused.split_rows(lengths)
    q = torch.zeros(8, HEADS, DIM, dtype=TYPE)
    fused.attend_rows(q, keys, values, table, slots, lengths, splits, torch.zeros(8, HEADS * DIM, dtype=TYPE))


def run_products(has_fp8: bool, has_dependent_launch: bool) -> None:
    """The products of few rows, of all weight formats that the GPU has kernels for."""
    outputs = (HEADS + 2 * KV_HEADS) * DIM
    split = few_rows.Split(outputs, CPU)
    bias = torch.zeros(outputs, dtype=TYPE)
    packed = torch.zeros(outputs, HIDDEN // 2, dtype=torch.uint8)
    table = torch.zeros(16, dtype=TYPE)
    form = packed, torch.zeros(outputs, HIDDEN // 64), table, nf4.table_registers(table)
    for rows in (1, 8, 32, 64):
        x = torch.zeros(rows, HIDDEN, dtype=TYPE)
        nf4.multiply(x, *form, bias, split)
        if has_dependent_launch and rows <= bf16.MOST_ROWS:
            bf16.multiply(x, torch.zeros(outputs, HIDDEN, dtype=TYPE), bias, split)
        if has_fp8:
            rounded, scales = fp8.quantize_rows(x)
            weight = torch.zeros(outputs, HIDDEN, dtype=torch.float8_e4m3fn)
            fp8.multiply(rounded, scales, weight, torch.zeros(outputs, 1), bias, split, TYPE)
    nf4.dequantize(*form)


def run_tower(reads_tiles: bool) -> None:
    """The kernels of the vision tower."""
    width = 3 * VISION_HEADS * VISION_DIM
    qkv, turn = torch.zeros(128, width, dtype=TYPE), torch.zeros(128, VISION_DIM // 2)
    vision.rotate_halves(qkv, turn, turn, VISION_HEADS)
    if reads_tiles:
        vision.attend(qkv, torch.tensor([0, 128], dtype=torch.int32), 128, VISION_HEADS)
    mean = torch.zeros(3)
    patches = torch.zeros(16, 3 * 2 * 14 * 14, dtype=TYPE)
    vision.patchify(torch.zeros(56, 56, 3, dtype=torch.uint8), mean, mean, 14, 2, patches)


def main() -> None:
    major, minor = map(int, sys.argv[1].split("."))
    capability = (major, minor)
    triton.runtime.driver.set_active(Driver(10 * major + minor))
    has_dependent_launch, is_hopper = capability >= (9, 0), major == 9
    pdl.supported = lambda device: has_dependent_launch  # type: ignore[assignment]
    names: set[str] = set()

    def compiled(**event: Any) -> None:
        names.add(f"{event['fn'].module.rpartition('.')[2]}.{event['fn'].name}")

    triton.knobs.runtime.jit_post_compile_hook = compiled

    def run_all() -> None:
        run_trunk(reads_pages=is_hopper)
        run_products(capability >= (8, 9), has_dependent_launch)
        run_tower(reads_tiles=is_hopper)

    began = time.perf_counter()
    compile_ahead(run_all, int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    json.dump({"kernels": sorted(names), "seconds": round(time.perf_counter() - began, 2)}, sys.stdout)


if __name__ == "__main__":
    main()
