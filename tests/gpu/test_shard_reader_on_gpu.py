"""Weights read straight to the GPU equal those of the safetensors library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.engine.model.shard_reader import BLOCK_BYTES, read_tensors, stored_tensors

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values_are_those_of_the_file(tmp_path: Path, dtype: torch.dtype):
    """Each is used and freed while others are still being read into memory that was just freed."""
    generator = torch.Generator().manual_seed(1)
    sizes = [BLOCK_BYTES, 3 * BLOCK_BYTES + 17, 5, *[BLOCK_BYTES // 2 + 1] * 80]
    tensors = {f"{i:02}": torch.randn(size, generator=generator).bfloat16() for i, size in enumerate(sizes)}
    save_file(tensors, tmp_path / "model.safetensors")
    expected = load_file(tmp_path / "model.safetensors")
    wanted = [(stored, torch.device("cuda")) for stored in stored_tensors(tmp_path / "model.safetensors")]
    found = 0
    for name, tensor in read_tensors(wanted, dtype):
        assert tensor.is_cuda
        assert tensor.dtype == dtype
        assert torch.equal(tensor.cpu(), expected[name].to(dtype))
        found += 1
    assert found == len(sizes)
