"""Checkpoints in the compressed-tensors format: how each weight is stored, and its expansion.

Weights are expanded while they are read; `model.quantization` then decides as for any other checkpoint. The inputs
of products are not rounded as the checkpoint's config describes. The format is that of the package
compressed-tensors (github.com/vllm-project/compressed-tensors).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from serve_app.errors import InvalidRequest

Shapes = dict[str, tuple[int, ...]]

_PACKED: Final = "pack-quantized"
_FORMATS: Final = ("float-quantized", "int-quantized", "naive-quantized", _PACKED)
_INSTEAD: Final = "Use the unquantized release, with model.quantization fp8 or nf4 where memory is short."


class Stored(Protocol):
    """A tensor in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def itemsize(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of a group of modules are stored."""

    targets: tuple[str, ...]  # names of modules, "re:" and an expression for names, or classes
    packed_bits: int | None  # of integers in words of 32 bits; None: float8_e4m3fn or int8, one byte each
    symmetric: bool  # without zero points
    block: tuple[int, int]  # rows and columns of one scale; 0: all of them

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Scales along the rows and the columns of a weight."""
        rows, columns = shape
        return ceil(rows / (self.block[0] or rows)), ceil(columns / (self.block[1] or columns))

    def parts(self, shape: tuple[int, ...]) -> Shapes:
        """The tensors of a weight (rows, columns), by the end of their names."""
        rows, columns = shape
        grid = self.grid(shape)
        parts: Shapes = {"weight": shape, "weight_scale": grid}
        if self.packed_bits is not None:
            parts = {"weight_packed": (rows, ceil(columns * self.packed_bits / 32)), "weight_scale": grid}
        if not self.symmetric:  # zero points are packed along the rows
            packed_rows = grid[0] if self.packed_bits is None else ceil(grid[0] * self.packed_bits / 32)
            parts["weight_zero_point"] = packed_rows, grid[1]
        return parts

    def expand(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The weight (rows, columns) in the dtype of its scales, on the device of its parts."""
        rows, columns = shape
        height, width = self.block[0] or rows, self.block[1] or columns
        scale = parts["weight_scale"].view(self.grid(shape))
        if self.packed_bits is None:
            values = parts["weight"]
        else:
            values = _unpack(parts["weight_packed"], self.packed_bits, columns)
        below, beside = scale.shape[0] * height - rows, scale.shape[1] * width - columns  # of the last blocks
        values = pad(values.to(scale.dtype), (0, beside, 0, below)).view(scale.shape[0], height, scale.shape[1], width)
        if not self.symmetric:
            zero = parts["weight_zero_point"]
            if self.packed_bits is not None:
                zero = _unpack(zero.t().contiguous(), self.packed_bits, scale.shape[0]).t()
            values -= zero.reshape(scale.shape)[:, None, :, None].to(scale.dtype)
        values *= scale[:, None, :, None]
        return values.view(rows + below, columns + beside)[:rows, :columns].contiguous()


@dataclass(frozen=True, slots=True)
class CompressedWeight:
    """A weight of the network and the tensors that it is stored as, by their names."""

    shape: tuple[int, ...]
    scheme: Scheme
    parts: Shapes


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """The schemes of a checkpoint."""

    schemes: tuple[Scheme, ...]
    ignored: tuple[str, ...]  # as targets

    @classmethod
    def of(cls, config: Mapping[str, Any], param: str = "model.path") -> CompressedTensors | None:
        """Read config.json; None for weights that are not quantized, or by bitsandbytes.

        Raises InvalidRequest for other methods, and for forms of this one that can't be read.
        """
        stored = config.get("quantization_config")
        if not stored or stored.get("quant_method") in (None, "bitsandbytes"):
            return None
        method, groups = stored["quant_method"], stored.get("config_groups") or {}
        _check(method, "quant_method", ("compressed-tensors", "bitsandbytes"), param)
        try:
            sparsity, transforms = stored.get("sparsity_config") or {}, stored.get("transform_config") or {}
            _check(sparsity.get("format", "dense"), "sparsity_config.format", ("dense",), param)
            _check(list(transforms.get("config_groups") or ()), "transform_config", ([],), param)
            schemes = [
                _scheme(group, group.get("format") or stored.get("format"), param)
                for group in groups.values()
                if group.get("weights")
            ]
            found = cls(tuple(schemes), tuple(stored.get("ignore") or ()))
            for name in (*found.ignored, *(target for scheme in schemes for target in scheme.targets)):
                if name.startswith("re:"):
                    re.compile(name.removeprefix("re:"))
            return found
        except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:
            raise InvalidRequest(
                f"quantization_config of config.json could not be understood ({type(error).__name__}: {error})."
                " Download config.json again, at the revision of the weights.",
                param,
            ) from error

    def find(self, shapes: Shapes, stored: Mapping[str, Stored]) -> dict[str, CompressedWeight]:
        """Those of the network's weights (names and shapes) that are stored compressed.

        Raises InvalidRequest where the config does not say how, or the scales have 8 bits.
        """
        found = {}
        for name, shape in shapes.items():
            in_bytes = name in stored and stored[name].itemsize == 1
            if not in_bytes and f"{name}_packed" not in stored:
                continue
            module = name.rpartition(".")[0]
            scheme = self._of_module(module)
            if scheme is None or len(shape) != 2:
                raise InvalidRequest(
                    f"{name} is stored quantized, but no config group of quantization_config is for it."
                    " Download config.json and the weights again, at one revision.",
                    "model.path",
                )
            if f"{name}_scale" in stored and stored[f"{name}_scale"].itemsize == 1:
                raise InvalidRequest(f"{name} has scales of 8 bits (MX formats), which can't be read. {_INSTEAD}")
            parts = {f"{module}.{part}": size for part, size in scheme.parts(shape).items()}
            for part, size in parts.items():  # a single scale has the shape () or (1,)
                if part in stored and prod(size) == prod(stored[part].shape) == 1:
                    parts[part] = stored[part].shape
            found[name] = CompressedWeight(shape, scheme, parts)
        return found

    def _of_module(self, module: str) -> Scheme | None:
        if any(_rank(module, name) is not None for name in self.ignored):
            return None
        ranks = ((_rank(module, target), scheme) for scheme in self.schemes for target in scheme.targets)
        fitting = [(rank, scheme) for rank, scheme in ranks if rank is not None]
        return min(fitting, key=lambda one: one[0])[1] if fitting else None


def stored_shapes(shapes: Shapes, compressed: Mapping[str, CompressedWeight]) -> Shapes:
    """Names and shapes of the tensors of a checkpoint whose weights would have `shapes`."""
    plain = {name: shape for name, shape in shapes.items() if name not in compressed}
    return plain | {part: size for weight in compressed.values() for part, size in weight.parts.items()}


def expand_weights(
    tensors: Iterable[tuple[str, Tensor]], compressed: Mapping[str, CompressedWeight], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, with each compressed weight in `dtype` once all of its parts have come."""
    owners = {part: name for name, weight in compressed.items() for part in weight.parts}
    waiting: dict[str, dict[str, Tensor]] = {}
    for part, tensor in tensors:
        if part not in owners:
            yield part, tensor
            continue
        name = owners[part]
        parts = waiting.setdefault(name, {})
        parts[part.rpartition(".")[2]] = tensor
        weight = compressed[name]
        if len(parts) == len(weight.parts):
            yield name, weight.scheme.expand(waiting.pop(name), weight.shape).to(dtype)


def _scheme(group: Mapping[str, Any], form: str | None, param: str) -> Scheme:
    weights = group["weights"]
    packed, strategy = form == _PACKED, weights.get("strategy")
    _check(form, "format", _FORMATS, param)
    _check(weights.get("type", "int"), "type", ("int",) if packed else ("int", "float"), param)
    _check(weights.get("num_bits", 8), "num_bits", (4, 8) if packed else (8,), param)
    blocks = {"channel": (1, 0), "group": (1, weights.get("group_size"))}
    if not packed:
        blocks |= {"tensor": (0, 0), "block": tuple(weights.get("block_structure") or (0, 0))}
    _check(strategy, "strategy", tuple(blocks), param)
    _check(weights.get("actorder") or None, "actorder", (None, "weight", "static"), param)
    rows, columns = (int(side) for side in blocks[strategy])
    return Scheme(
        targets=tuple(group["targets"]),
        packed_bits=int(weights["num_bits"]) if packed else None,
        symmetric=bool(weights.get("symmetric", True)),
        block=(rows, columns),
    )


def _check(value: Any, what: str, supported: tuple[Any, ...], param: str) -> None:
    if value not in supported:
        listed = ", ".join(str(one) for one in supported if one) or "none"
        raise InvalidRequest(
            f"The weights are stored quantized with {what} {value!r} (quantization_config), which can't be read;"
            f" supported: {listed}. {_INSTEAD}",
            param,
        )


def _rank(module: str, target: str) -> int | None:
    """None if `target` is not for a module; else names come before expressions, and these before classes."""
    if target == module:
        return 0
    if target.startswith("re:"):
        return 1 if re.match(target.removeprefix("re:"), module) else None
    # No other modules are compressed.
    return 2 if target == ("Embedding" if "embed" in module.rpartition(".")[2] else "Linear") else None


def _unpack(words: Tensor, bits: int, columns: int) -> Tensor:
    """int32 (rows, words) to int8 (rows, columns): unsigned integers, the lowest bits first, less half their range."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=words.device)
    unsigned = ((words.view(torch.uint8).unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(1)[:, :columns]
    return (unsigned - (1 << (bits - 1))).view(torch.int8)  # the difference of uint8 wraps around
