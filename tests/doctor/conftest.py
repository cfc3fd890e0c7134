"""A copy of the demo model to break, and findings by their names."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from serve_app.doctor.report import Finding
from serve_app.settings import DEMO_MODEL


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A checkpoint of three shards, complete."""
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def the_one(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


def named(findings: Iterable[Finding], name: str) -> Finding:
    return the_one(finding for finding in findings if finding.name == name)


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a JSON file after `edit` changed what is in it."""
    content = json.loads(file.read_text("utf-8"))
    edit(content)
    file.write_text(json.dumps(content), "utf-8")


def write_sparse_shard(file: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], itemsize: int = 2) -> None:
    """A safetensors file of any size with its header alone written; the weights are a hole in the file."""
    header, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = offset + itemsize * _product(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    written = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(written).to_bytes(8, "little") + written)
        stream.truncate(8 + len(written) + offset)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
