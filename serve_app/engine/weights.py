"""A checkpoint folder to a model on its device: dtype found out, weights whole or quantized."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from serve_app.engine.models.glm4v import Glm4v
from serve_app.engine.text import Vocabulary
from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings

log = logging.getLogger("glm.engine")

FAMILIES: dict[str, type[Glm4v]] = {"glm4v": Glm4v, "glm46v": Glm4v}

# Kept whole when the rest is quantized: the head decides every token, the tower every picture.
# Naming any module here replaces the library's own default, so lm_head has to be named too.
_KEPT_WHOLE = ["lm_head", "model.visual"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, with what its answers are made of."""

    model: Glm4v
    vocabulary: Vocabulary
    quantization: str
    parameters: int


def load(folder: Path, settings: ModelSettings) -> LoadedModel:
    """Load the checkpoint in `folder`; `InvalidRequest` says what is wrong with it or its settings."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        raise InvalidRequest(
            f"{folder.name} is of type {config.get('model_type')!r}; served types are {', '.join(sorted(FAMILIES))}",
            param="model.path",
        )
    device = find_device(settings.device)
    dtype = find_dtype(settings.dtype, device, _checkpoint_dtype(config))
    quantization, quantization_config = _quantization(config, settings, dtype)
    model = _read(folder, dtype, device, quantization_config)
    parameters = sum(count_parameters(parameter) for parameter in model.parameters())
    adapter = family(model, folder, dtype, device)
    return LoadedModel(adapter, _vocabulary(folder, adapter.vocab_size), quantization, parameters)


def find_device(wanted: str) -> torch.device:
    """The device to run on; `auto` takes a GPU where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("model.device is cuda, but torch sees no CUDA device", param="model.device")
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")


def find_dtype(wanted: str, device: torch.device, checkpoint: torch.dtype) -> torch.dtype:
    """The compute type; `auto` is float32 on a CPU, else the checkpoint's where the GPU has it.

    GPUs before compute capability 8.0 emulate bfloat16 slowly; they get float16.
    """
    native_bfloat16 = device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)
    if wanted == "bfloat16" and not native_bfloat16:
        raise InvalidRequest(
            f"{torch.cuda.get_device_name(device)} has no bfloat16; set model.dtype to float16 or auto",
            param="model.dtype",
        )
    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    if device.type == "cpu":
        return torch.float32
    if checkpoint == torch.bfloat16 and not native_bfloat16:
        return torch.float16
    return checkpoint


def _checkpoint_dtype(config: dict[str, Any]) -> torch.dtype:
    name = config.get("dtype") or config.get("torch_dtype") or config.get("text_config", {}).get("dtype") or "bfloat16"
    return getattr(torch, name)  # type: ignore[no-any-return]


def _quantization(config: dict[str, Any], settings: ModelSettings, dtype: torch.dtype) -> tuple[str, Any]:
    """The weight format and, where this load does the quantizing, its config."""
    stored = config.get("quantization_config")
    if stored is not None:
        if settings.quantization != "none":
            raise InvalidRequest(
                "the checkpoint is quantized already; leave model.quantization at none", param="model.quantization"
            )
        return str(stored.get("quant_method", "stored")), None
    if settings.quantization == "none":
        return "none", None

    from transformers import BitsAndBytesConfig  # imported late: pulls in bitsandbytes

    if settings.quantization == "nf4":
        return "nf4", BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,  # the library's default is float32, which halves the speed
            llm_int8_skip_modules=_KEPT_WHOLE,
        )
    # One warning for each product of each step, that bfloat16 inputs are cast; it would flood the log.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # Threshold 0: the outlier path looks at all rows together, so one request would change another's numbers.
    return "int8", BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=_KEPT_WHOLE)


def _read(folder: Path, dtype: torch.dtype, device: torch.device, quantization_config: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    # Not even None may be passed for a checkpoint that is quantized already: it would hide the stored config.
    quantizing = {} if quantization_config is None else {"quantization_config": quantization_config}
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},
            **quantizing,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"{folder.name} could not be loaded: {error}", param="model.path") from error
    for kind, what in (("missing_keys", "lacks"), ("mismatched_keys", "has another shape for")):
        if keys := sorted(str(key) for key in report[kind]):
            raise InvalidRequest(
                f"{folder.name} {what} {len(keys)} weights, {keys[0]} first: is it complete and of one revision?",
                param="model.path",
            )
    return model.eval()


def _vocabulary(folder: Path, size: int) -> Vocabulary:
    from transformers import AutoTokenizer

    return Vocabulary.of(AutoTokenizer.from_pretrained(folder, local_files_only=True), size)


def count_parameters(parameter: torch.nn.Parameter) -> int:
    """Parameters behind a tensor; 4-bit weights are packed two to a byte and remember their shape."""
    quant_state = getattr(parameter, "quant_state", None)
    return int(quant_state.shape.numel()) if quant_state is not None else parameter.numel()
