"""Writes checkpoints in the compressed-tensors format for tests, by the format's description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# As in Mitchins/GLM-4.6V-Flash-FP8-Block128.
FP8_BLOCK: dict[str, Any] = {
    "format": "float-quantized",
    "targets": ["Linear"],
    "weights": {"type": "float", "num_bits": 8, "strategy": "block", "block_structure": [128, 128], "symmetric": True},
    "input_activations": {"type": "float", "num_bits": 8, "strategy": "group", "group_size": 128, "dynamic": True},
}
INT4: dict[str, Any] = {
    "format": "pack-quantized",
    "targets": ["Linear"],
    "weights": {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": True},
    "input_activations": None,
}


def compressed_config(group: dict[str, Any]) -> dict[str, Any]:
    """`quantization_config` of config.json with one group, as llm-compressor writes it."""
    return {
        "quant_method": "compressed-tensors",
        "format": group.get("format"),
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:model.visual.*"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
    }


def compress(compressed: Path, plain: Path, group: dict[str, Any]) -> None:
    """Compress the text layers of the first folder; the second gets weights of the same values."""
    stored, expanded = {}, {}
    tensors = {name: tensor for file in compressed.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for folder in (compressed, plain):
        for file in folder.glob("*.safetensors*"):
            file.unlink()
    for name, tensor in tensors.items():
        if "language_model.layers" not in name or tensor.ndim != 2:
            stored[name] = expanded[name] = tensor
            continue
        parts, values = (
            fp8_blocks(tensor.float()) if group["format"] == "float-quantized" else int4_groups(tensor.float())
        )
        stored |= {name.removesuffix("weight") + part: value for part, value in parts.items()}
        expanded[name] = values
    save_file(stored, compressed / "model.safetensors", metadata={"format": "pt"})
    save_file(expanded, plain / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((compressed / "config.json").read_text())
    (compressed / "config.json").write_text(json.dumps(config | {"quantization_config": compressed_config(group)}))


def fp8_blocks(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The parts of a float32 weight in FP8, and its values in bfloat16."""
    rows, columns = ((side + 127) // 128 for side in weight.shape)
    stored, expanded = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), torch.empty(weight.shape).bfloat16()
    scales = torch.empty(rows, columns).bfloat16()
    for row in range(rows):
        for column in range(columns):
            block = slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128)
            scales[row, column] = weight[block].abs().max() / 448
            stored[block] = (weight[block] / scales[row, column].float()).to(torch.float8_e4m3fn)
            expanded[block] = stored[block].to(torch.bfloat16) * scales[row, column]
    return {"weight": stored, "weight_scale": scales}, expanded


def int4_groups(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The parts of a float32 weight in 4-bit integers, and its values in bfloat16."""
    groups = weight.view(len(weight), -1, 128)
    scales = (groups.abs().amax(2) / 7).bfloat16()
    integers = (groups / scales.float()[..., None]).round().clamp(-8, 7).to(torch.int64)
    eights = (integers + 8).view(len(weight), -1, 8)
    words = sum(eights[..., place] << (4 * place) for place in range(8))  # the first in the lowest bits
    packed = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    parts = {"weight_packed": packed, "weight_scale": scales, "weight_shape": torch.tensor(weight.shape)}
    return parts, (integers.bfloat16() * scales[..., None]).view(weight.shape)
