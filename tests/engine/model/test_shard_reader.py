"""Reading of safetensors files by several threads: the values, dtypes and order are those of the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.engine.model.shard_reader import BLOCK_BYTES, read_tensors, stored_tensors

CPU = torch.device("cpu")


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    more_than_a_block = BLOCK_BYTES // 2 + 12_345  # of two bytes each
    return {
        "long": torch.randn(more_than_a_block, generator=generator).bfloat16(),
        "a": torch.randn(3, 5, 7, generator=generator).bfloat16(),
        "half": torch.randn(64, 64, generator=generator).half(),
        "single": torch.randn(31, 2, generator=generator),
        "double": torch.randn(9, generator=generator).double(),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4, dtype=torch.bfloat16),
        "counts": torch.arange(1000),
        "bytes": torch.arange(256, dtype=torch.uint8),
    }


@pytest.fixture
def file(tensors: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def read(file: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return dict(read_tensors([(stored, CPU) for stored in stored_tensors(file)], dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_of_the_safetensors_library(file: Path, dtype: torch.dtype):
    expected = load_file(file)
    found = read(file, dtype)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == dtype
        assert tensor.is_contiguous()
        assert torch.equal(tensor, expected[name].to(dtype)), name


def test_the_header_gives_shapes_dtypes_and_sizes(file: Path, tensors: dict[str, torch.Tensor]):
    stored = stored_tensors(file)
    assert {one.name: (one.shape, one.dtype, one.nbytes) for one in stored} == {
        name: (tuple(tensor.shape), tensor.dtype, tensor.nbytes) for name, tensor in tensors.items()
    }
    assert [one.offset for one in stored] == sorted(one.offset for one in stored)


def test_tensors_come_in_the_order_in_which_they_are_wanted(file: Path):
    stored = sorted(stored_tensors(file), key=lambda one: one.name, reverse=True)
    names = [name for name, _ in read_tensors([(one, CPU) for one in stored], torch.float32)]
    assert names == [one.name for one in stored]


def test_only_so_much_is_read_before_it_is_taken(tmp_path: Path):
    """So the memory of unquantized tensors is bounded, whatever the size of the checkpoint."""
    save_file({str(i): torch.zeros(1000, dtype=torch.uint8) for i in range(6)}, tmp_path / "x.safetensors")
    asked_for = 0

    def wanted():
        nonlocal asked_for
        for stored in stored_tensors(tmp_path / "x.safetensors"):
            asked_for += 1
            yield stored, CPU

    tensors = read_tensors(wanted(), torch.uint8, ahead_bytes=4000)
    next(tensors)
    assert asked_for == 5
    tensors.close()


def test_a_file_that_became_shorter_is_an_error(file: Path):
    stored = stored_tensors(file)
    os.truncate(file, file.stat().st_size - 100)
    with pytest.raises(OSError, match="became shorter"):
        list(read_tensors([(one, CPU) for one in stored], torch.float32))


def test_a_reader_that_is_closed_early_leaves_no_open_file(file: Path):
    before = len(os.listdir("/proc/self/fd"))
    tensors = read_tensors([(stored, CPU) for stored in stored_tensors(file)], torch.float32)
    next(tensors)
    tensors.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_unknown_dtype_is_named(tmp_path: Path):
    header = b'{"w":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
    with pytest.raises(ValueError, match="the dtype F6_E2M3 of w is not supported"):
        stored_tensors(tmp_path / "x.safetensors")


def test_weights_can_be_read_in_inference_mode(file: Path):
    expected = load_file(file)
    with torch.inference_mode():
        found = read(file, torch.bfloat16)
    assert torch.equal(found["long"], expected["long"])
