"""Memory footprint of a model's weights on a device, by quantization."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from serve_app.engine.model.quantization import Quantization
from serve_app.engine.model.slots import CacheShape

# Bytes per weight. NF4: half of one and, for each 64 weights, a float32 scale, which is what the GPU kernels read.
_PACKED = {"fp8": 1.0, "nf4": 0.5 + 4 / 64, "int8": 1.0}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of weights of a model by kind, and the shape of its KV cache."""

    text_linear: int  # quantized by fp8, nf4 and int8
    vision_linear: int  # quantized with quantize_vision
    unquantized: int  # embeddings, head, norms, convolutions
    cache: CacheShape
    stored_bytes: int | None = None  # of a checkpoint that is stored quantized

    @classmethod
    def of(cls, network: nn.Module, cache: CacheShape, stored_bytes: int | None) -> Sizes:
        """Count the weights of an empty network, by the rule of quantization.py."""
        text = vision = 0
        for name, module in network.named_modules():
            if type(module) is nn.Linear and name != "lm_head":
                if "visual" in name.split("."):
                    vision += module.weight.numel()
                else:
                    text += module.weight.numel()
        total = sum(parameter.numel() for parameter in network.parameters())
        return cls(text, vision, total - text - vision, cache, stored_bytes)

    @property
    def parameters(self) -> int:
        return self.text_linear + self.vision_linear + self.unquantized

    def weight_bytes(self, quantization: Quantization) -> int:
        """Bytes of all weights on the device."""
        if self.stored_bytes is not None:
            return self.stored_bytes
        size = self.cache.dtype.itemsize
        vision = _PACKED.get(quantization.kind, size) if quantization.vision else size
        return round(self.text_bytes(quantization) + self.vision_linear * vision + self.unquantized * size)

    def text_bytes(self, quantization: Quantization) -> float:
        """Bytes of the text layers' matrices, which every step reads."""
        return self.text_linear * _PACKED.get(quantization.kind, self.cache.dtype.itemsize)
