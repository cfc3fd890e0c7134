"""Loads a checkpoint folder: adapter by model_type, device, dtype, quantization."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from serve_app.engine.model.compressed_tensors import CompressedTensors
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.nf4 import expand_scales
from serve_app.engine.model.quantization import Quantization, count_parameters
from serve_app.engine.model.shards import read_json
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.errors import InvalidRequest
from serve_app.model_families import model_family
from serve_app.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model with its vocabulary."""

    model: ModelAdapter
    vocabulary: Vocabulary
    quantization: str
    parameters: int


def import_family(folder: Path) -> None:
    """Import the adapter of the checkpoint's family and the library's modules for it, which take a second or more."""
    model_family(read_json(folder / "config.json"), folder).adapter_class()


def load(folder: Path, settings: ModelSettings) -> LoadedModel:
    """Load the checkpoint in `folder`; raises `InvalidRequest` for a damaged checkpoint or wrong settings."""
    config = read_json(folder / "config.json")
    model = load_model(folder, settings)
    stored = {} if CompressedTensors.of(config) else config.get("quantization_config") or {}
    return LoadedModel(
        model,
        model_family(config, folder).adapter_class().vocabulary(folder, model.vocab_size),
        quantization=str(stored.get("quant_method", settings.quantization)),
        parameters=count_parameters(model.model),
    )


def load_model(folder: Path, settings: ModelSettings) -> ModelAdapter:
    """The model without its vocabulary, for folders without a tokenizer."""
    config = read_json(folder / "config.json")
    adapter_class = model_family(config, folder).adapter_class()
    transformers_logging.disable_progress_bar()  # each of its lines would be a record of the log
    # Its attention makes a plan for every pair of lengths that is new, which takes 0.04 to 1.7 s each.
    torch.backends.cuda.enable_cudnn_sdp(False)
    device = find_device(settings.device)
    dtype = find_dtype(settings.dtype, device, checkpoint_dtype(config))
    quantization = Quantization.of(settings)
    quantization.check_device(device, dtype)
    adapter: ModelAdapter = adapter_class.load(folder, config, dtype, device, quantization)
    expand_scales(adapter.model)
    return adapter


def find_device(wanted: str) -> torch.device:
    """The device to run on; `auto` is a GPU if there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("model.device is cuda, but torch finds no CUDA device.", param="model.device")
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")


def find_dtype(wanted: str, device: torch.device, checkpoint: torch.dtype) -> torch.dtype:
    """The compute type; `auto` is float32 on a CPU, else the checkpoint's if the GPU supports it.

    GPUs before compute capability 8.0 emulate bfloat16 slowly; they use float16.
    """
    native_bfloat16 = device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)
    if wanted == "bfloat16" and not native_bfloat16:
        raise InvalidRequest(
            f"{torch.cuda.get_device_name(device)} has no bfloat16. Set model.dtype to float16 or auto.",
            param="model.dtype",
        )
    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    if device.type == "cpu":
        return torch.float32
    if checkpoint == torch.bfloat16 and not native_bfloat16:
        return torch.float16
    return checkpoint


def checkpoint_dtype(config: dict[str, Any]) -> torch.dtype:
    name = config.get("dtype") or config.get("torch_dtype") or config.get("text_config", {}).get("dtype") or "bfloat16"
    return getattr(torch, name)  # type: ignore[no-any-return]
