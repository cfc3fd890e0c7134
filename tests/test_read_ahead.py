"""Weights are read before the engine loads them, where there is memory for them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from serve_app.read_ahead import available_bytes, read_ahead

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        (tmp_path / f"model-{number}.safetensors").write_bytes(os.urandom(3 * MIB))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def read_bytes() -> int:
    """Bytes that this process has asked the kernel for."""
    return int(psutil.Process().io_counters().read_chars)


def test_all_weights_are_read_once(folder: Path):
    before = read_bytes()
    for thread in read_ahead(folder):
        thread.join(10)
        assert not thread.is_alive()
    assert 15 * MIB <= read_bytes() - before < 16 * MIB


def test_nothing_is_read_that_would_not_stay_in_memory(folder: Path):
    """It would be read twice, and push out what other programs need."""
    limit = folder / "memory.max"
    limit.write_text(f"{16 * MIB}\n")
    assert read_ahead(folder, limit=limit) == []
    limit.write_text(f"{32 * MIB}\n")
    assert read_ahead(folder, limit=limit) != []


@pytest.mark.parametrize("content", ["max\n", None])
def test_without_a_limit_of_the_container_the_machine_counts(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "memory.max").write_text(content)
    assert 0 < available_bytes(tmp_path / "memory.max") <= psutil.virtual_memory().total
