"""Quantization of weights to 4 or 8 bits: FP8, and NF4 and INT8 with bitsandbytes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from serve_app.engine.model.fp8 import Fp8Linear, fits_fp8
from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

log = logging.getLogger("glm.engine")

_BLOCK = 64  # weights with one scale
_DOUBLE_QUANTIZATION = True  # the scales too: 4.13 bits a weight instead of 4.5
FP8_CAPABILITY = (8, 9)  # the first GPUs with FP8 matrix units


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the weights are stored on the device.

    The head is never quantized; the vision tower only with `vision`. Embeddings, norms and convolutions are
    never quantized.
    """

    kind: Literal["none", "fp8", "nf4", "int8"] = "none"
    vision: bool = False

    @classmethod
    def of(cls, settings: ModelSettings) -> Quantization:
        """The quantization of the settings; raises `InvalidRequest` if they contradict each other."""
        if settings.quantize_vision and settings.quantization == "none":
            raise InvalidRequest(
                "model.quantize_vision needs model.quantization to be fp8, nf4 or int8.", param="model.quantize_vision"
            )
        return cls(settings.quantization, settings.quantize_vision)

    def check_device(self, device: torch.device, dtype: torch.dtype) -> None:
        """Raises `InvalidRequest` if the device does not support this format with this compute type."""
        if self.kind != "fp8":
            return
        instead = "Set model.quantization to nf4, int8 or none."
        if device.type != "cuda":
            raise InvalidRequest(
                f"The format fp8 needs a GPU, and this model runs on a CPU. {instead}", param="model.quantization"
            )
        capability = torch.cuda.get_device_capability(device)
        if capability < FP8_CAPABILITY:
            raise InvalidRequest(
                f"The format fp8 needs a GPU of compute capability 8.9 or newer, such as L4, RTX 4090 or H100;"
                f" {torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}. {instead}",
                param="model.quantization",
            )
        if dtype != torch.bfloat16:
            raise InvalidRequest(
                f"The format fp8 is for models that compute in bfloat16, not in {str(dtype).removeprefix('torch.')}."
                " Set model.dtype to bfloat16, or model.quantization to nf4, int8 or none.",
                param="model.dtype",
            )

    def runs_on(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether `check_device` raises nothing."""
        try:
            self.check_device(device, dtype)
        except InvalidRequest:
            return False
        return True

    def unquantized_modules(self, head: str, tower: str) -> list[str]:
        """Names of the modules that are not quantized."""
        return [head] if self.vision else [head, tower]

    def for_transformers(self, dtype: torch.dtype, unquantized_modules: list[str]) -> BitsAndBytesConfig | None:
        """The configuration for `from_pretrained`; None if bitsandbytes is not used."""
        if self.kind in ("none", "fp8"):
            return None

        from transformers import BitsAndBytesConfig  # imported late: pulls in bitsandbytes

        # Naming any module replaces the library's own default, so the head has to be among them.
        if self.kind == "nf4":
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=_DOUBLE_QUANTIZATION,
                bnb_4bit_compute_dtype=dtype,  # the library's default is float32, which halves the speed
                llm_int8_skip_modules=unquantized_modules,
            )
        silence_cast_warnings()
        # Threshold 0: the outlier path looks at all rows together, so one request would change another's numbers.
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=unquantized_modules)

    def replace_linears(self, network: nn.Module, dtype: torch.dtype, unquantized_modules: list[str]) -> None:
        """Replace the linear layers of a network on the meta device by quantized ones."""
        if self.kind == "none":
            return
        if self.kind == "int8":
            silence_cast_warnings()
        for name, linear in list(network.named_modules()):
            kept = any(name == module or name.startswith(f"{module}.") for module in unquantized_modules)
            if type(linear) is not nn.Linear or kept:
                continue
            if self.kind == "nf4" and (linear.in_features % _BLOCK or linear.out_features % 32):
                log.warning("%s is not quantized: the NF4 kernels for CPUs do not support %s.", name, linear)
                continue
            if self.kind == "fp8" and not fits_fp8(linear):
                log.warning("%s is not quantized: products in FP8 need multiples of 16, not %s", name, linear)
                continue
            network.set_submodule(name, self._emptied(linear, dtype))

    def _emptied(self, linear: nn.Linear, dtype: torch.dtype) -> nn.Module:
        """The quantized layer of the same sizes, still without weights."""
        sizes = linear.in_features, linear.out_features, linear.bias is not None
        if self.kind == "fp8":
            return Fp8Linear(*sizes, device="meta")

        import bitsandbytes  # imported late: it looks for a GPU

        if self.kind == "int8":
            layer: nn.Module = bitsandbytes.nn.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
        else:
            layer = bitsandbytes.nn.Linear4bit(
                *sizes, compute_dtype=dtype, compress_statistics=_DOUBLE_QUANTIZATION, quant_type="nf4", device="meta"
            )
        return layer


def device_to_read(network: nn.Module, name: str, device: torch.device) -> torch.device:
    """Where the values of a parameter are read to; bitsandbytes quantizes INT8 weights as it copies them to the GPU."""
    module, _, attribute = name.rpartition(".")
    bitsandbytes_own = type(getattr(network.get_submodule(module), attribute)) is not nn.Parameter
    return torch.device("cpu") if bitsandbytes_own else device


def materialize(module: nn.Module, name: str, values: torch.Tensor, device: torch.device) -> None:
    """Give a parameter of a module its values (in the compute type, where `device_to_read` says), quantized.

    A plain parameter is `values` itself, without a copy.
    """
    parameter = getattr(module, name)
    if isinstance(module, Fp8Linear) and name == "weight":
        module.quantize(values.to(device))
    elif type(parameter) is nn.Parameter:
        setattr(module, name, nn.Parameter(values.to(device), requires_grad=False))
    else:  # bitsandbytes' own classes keep their options as attributes, and quantize on the way to a device
        quantizing: Any = type(parameter)(values, requires_grad=False, **vars(parameter))
        setattr(module, name, quantizing.to(device))


def count_parameters(network: nn.Module) -> int:
    """Parameters of a network; 4-bit weights are packed two to a byte and remember their shape."""
    states = ((parameter, getattr(parameter, "quant_state", None)) for parameter in network.parameters())
    return sum(parameter.numel() if state is None else state.shape.numel() for parameter, state in states)


def silence_cast_warnings() -> None:
    """Silence bitsandbytes, which logs a warning about bfloat16 inputs at every matrix product."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
