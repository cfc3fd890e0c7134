"""Writes compressed_vectors.safetensors with the package compressed-tensors, which tests don't need.

`pip install --no-deps --target DIR compressed-tensors loguru`, then
`PYTHONPATH=DIR:. python -m tests.engine.model.write_compressed_vectors`. Written with compressed-tensors 0.20.1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

FILE = Path(__file__).with_name("compressed_vectors.safetensors")
ROWS, COLUMNS = 12, 32
GROUP = {"strategy": "group", "group_size": 8}
BLOCK = {"strategy": "block", "block_structure": [8, 8]}  # the last blocks have four rows

# Name: format, weights of the config group, dtype of the scales.
CASES: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    "fp8-block": ("float-quantized", {"type": "float", "num_bits": 8, **BLOCK}, torch.bfloat16),
    "fp8-block-float32-scales": ("float-quantized", {"type": "float", "num_bits": 8, **BLOCK}, torch.float32),
    "fp8-channel": ("float-quantized", {"type": "float", "num_bits": 8, "strategy": "channel"}, torch.bfloat16),
    "fp8-tensor": ("float-quantized", {"type": "float", "num_bits": 8, "strategy": "tensor"}, torch.bfloat16),
    "fp8-group": ("naive-quantized", {"type": "float", "num_bits": 8, **GROUP}, torch.bfloat16),
    "int8-channel": ("int-quantized", {"type": "int", "num_bits": 8, "strategy": "channel"}, torch.bfloat16),
    "int8-channel-zero": (
        "int-quantized",
        {"type": "int", "num_bits": 8, "strategy": "channel", "symmetric": False},
        torch.bfloat16,
    ),
    "int4-group": ("pack-quantized", {"type": "int", "num_bits": 4, **GROUP}, torch.bfloat16),
    "int4-group-float16": ("pack-quantized", {"type": "int", "num_bits": 4, **GROUP}, torch.float16),
    "int4-group-zero": ("pack-quantized", {"type": "int", "num_bits": 4, **GROUP, "symmetric": False}, torch.bfloat16),
    "int4-channel": ("pack-quantized", {"type": "int", "num_bits": 4, "strategy": "channel"}, torch.bfloat16),
    "int4-channel-zero": (
        "pack-quantized",
        {"type": "int", "num_bits": 4, "strategy": "channel", "symmetric": False},
        torch.bfloat16,
    ),
    "int8-packed-group": ("pack-quantized", {"type": "int", "num_bits": 8, **GROUP}, torch.bfloat16),
    "int8-packed-group-zero": (
        "pack-quantized",
        {"type": "int", "num_bits": 8, **GROUP, "symmetric": False},
        torch.bfloat16,
    ),
}


def write() -> None:
    """The parts of a random weight in every form, and what the package expands them to."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    torch.manual_seed(14)
    tensors: dict[str, torch.Tensor] = {}
    groups: dict[str, Any] = {}
    for name, (form, weights, scale_dtype) in CASES.items():
        columns = 30 if weights["strategy"] == "channel" and form == "pack-quantized" else COLUMNS
        weight = torch.randn(ROWS, columns)
        args = QuantizationArgs(**weights)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        state = {"weight": weight} | qparams(weight, weights, scale_dtype)
        compressor = BaseCompressor.get_value_from_registry(form)
        parts = compressor.compress(state, scheme)
        if weights["strategy"] == "block":  # decompress() takes the height of a block from the shapes: wrong here
            expanded = dequantize(parts["weight"], parts["weight_scale"], args=args)
        else:
            expanded = compressor.decompress(parts, scheme)["weight"]
        groups[name] = {"format": form, "targets": ["Linear"], "weights": weights}
        tensors |= {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        tensors[f"{name}.expanded"] = expanded.contiguous()
    save_file(tensors, FILE, metadata={"config_groups": json.dumps(groups)})


def qparams(weight: torch.Tensor, weights: dict[str, Any], scale_dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Scales and zero points of a weight."""
    rows, columns = weight.shape
    height, width = {
        "tensor": (rows, columns),
        "channel": (1, columns),
        "group": (1, weights.get("group_size")),
        "block": weights.get("block_structure"),
    }[weights["strategy"]]
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -rows % height))
    blocks = padded.view(padded.shape[0] // height, height, columns // width, width)
    low, high = blocks.amin((1, 3)).clamp(max=0), blocks.amax((1, 3)).clamp(min=0)
    largest = 448.0 if weights["type"] == "float" else 2.0 ** (weights["num_bits"] - 1) - 1
    if weights.get("symmetric", True):
        scale = (torch.maximum(high, -low) / largest).to(scale_dtype)
        return {"weight_scale": scale.view(1) if weights["strategy"] == "tensor" else scale}
    scale = ((high - low) / (2 * largest + 1)).to(scale_dtype)
    zero = (-largest - 1 - low / scale.float()).round().clamp(-largest - 1, largest).to(torch.int8)
    return {"weight_scale": scale, "weight_zero_point": zero}


if __name__ == "__main__":
    write()
