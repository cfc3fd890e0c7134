"""All Triton kernels compile for the GPUs that they are for; no GPU is needed"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]
EVERYWHERE = {
    "fused._add_norm",
    "fused._attend_rows",
    "fused._combine",
    "fused._rope_store",
    "fused._silu_mul",
    "fused._split_rows",
    "nf4._dequantize",
    "nf4._multiply",
    "nf4._multiply_one",
    "vision._patchify",
    "vision._rotate_halves",
}
FP8 = {"fp8._multiply", "fp8._quantize_rows"}
# Bytes of shared memory that one program may have (CUDA C++ Programming Guide, technical specifications).
SHARED = {"8.0": 163 * 1024, "8.6": 99 * 1024, "8.9": 99 * 1024, "9.0": 227 * 1024, "12.0": 99 * 1024}


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [
        ("8.0", EVERYWHERE),
        ("8.6", EVERYWHERE),
        ("8.9", EVERYWHERE | FP8),
        ("9.0", EVERYWHERE | FP8 | {"bf16._multiply", "pieces._attend", "vision._attend"}),
        ("12.0", EVERYWHERE | FP8 | {"bf16._multiply"}),
    ],
)
def test_all_kernels_of_a_gpu_compile_ahead_and_fit_its_shared_memory(
    capability: str, kernels: set[str], tmp_path: Path
) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.engine.model.compile_kernels", capability],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert set(json.loads(ended.stdout)["kernels"]) == kernels
    described = [json.loads(file.with_suffix(".json").read_text()) for file in tmp_path.rglob("*.cubin")]
    assert {one["name"] for one in described} == {name.rpartition(".")[2] for name in kernels}
    assert max(one["shared"] for one in described) <= SHARED[capability]
