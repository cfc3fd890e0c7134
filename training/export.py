"""Writes the trained model as an ordinary Hugging Face folder: config, bf16 shards, generation defaults."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Glm4vForConditionalGeneration

SHARD_BYTES = 12 * 2**20


def export(model: Glm4vForConditionalGeneration, config: dict[str, Any], folder: Path) -> None:
    tensors = {name: value.detach().to(torch.bfloat16).cpu().contiguous() for name, value in model.state_dict().items()}
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in tensors.items():
        if size + value.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    for stale in folder.glob("model-*.safetensors"):
        stale.unlink()
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, file)
    total = sum(value.nbytes for value in tensors.values())
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    _write(folder / "config.json", config)
    text = config["text_config"]
    generation = {"do_sample": False, "eos_token_id": text["eos_token_id"], "pad_token_id": text["pad_token_id"]}
    _write(folder / "generation_config.json", generation)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
