"""Weights in the compressed-tensors format are expanded on the GPU as on the CPU."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from serve_app.engine.model.compressed_tensors import CompressedTensors
from tests.engine.model.compressed_checkpoint import compressed_config
from tests.engine.model.write_compressed_vectors import CASES, FILE

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("case", CASES)
def test_expanded_weights_are_bit_for_bit_those_of_the_formats_own_package(case: str) -> None:
    with safe_open(FILE, framework="pt") as file:
        group = json.loads(file.metadata()["config_groups"])[case]
    vectors = load_file(FILE, device="cuda")
    parts = {name.removeprefix(f"{case}."): vectors[name] for name in vectors if name.startswith(f"{case}.")}
    expected = parts.pop("expanded")
    compression = CompressedTensors.of({"quantization_config": compressed_config(group)})
    assert compression is not None
    found = compression.schemes[0].expand(parts, tuple(expected.shape))
    assert found.is_cuda
    assert torch.equal(found, expected)
