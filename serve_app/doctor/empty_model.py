"""Builds the model of config.json without weights, and compares its tensors with those of the shards.

It is on torch's meta device, where tensors have only shapes, so a model of any size takes a second or two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from serve_app.doctor.files import Stored, natural
from serve_app.doctor.report import CheckEnded, Finding, ok, problem, warning
from serve_app.engine.model.compressed_tensors import CompressedTensors, stored_shapes
from serve_app.engine.model.families import glm4v
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.families.glm4v_9b import IGNORED, Glm4v9bAdapter, empty_network, original_name
from serve_app.engine.model.shards import original_shapes, read_json
from serve_app.errors import InvalidRequest
from serve_app.model_families import model_family

Shape = tuple[int, ...]

# Suffixes of the tensors that bitsandbytes stores beside a quantized weight.
_QUANTIZED_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format")


@dataclass(frozen=True, slots=True)
class EmptyModel:
    """The model without weights, and the differences of the stored tensors."""

    family: ModelAdapter
    weights: int  # number of tensors
    missing: tuple[str, ...]
    misshapen: tuple[tuple[str, Shape, Shape], ...]  # name, as stored, as config.json has it
    unknown: tuple[str, ...]
    unknown_refused: bool  # whether the loader refuses unknown tensors; else it ignores them


def check_family(config: dict[str, Any], folder: Path) -> Iterator[Finding]:
    """Check the family. Raises CheckEnded if it is not supported."""
    try:
        family = model_family(config, folder)
    except InvalidRequest as error:
        raise CheckEnded(problem("family", error.message, "Set --model to a supported model.")) from error
    yield ok("family", f"{family.name}, as {' and '.join(family.checkpoints)}")


def build(folder: Path, config: dict[str, Any], tensors: dict[str, Stored], dtype: torch.dtype) -> EmptyModel:
    """Build the model without weights and compare it with `tensors`.

    Raises InvalidRequest for an invalid config, and CheckEnded for a missing file.
    """
    if model_family(config, folder).weight_layout == "original":
        return _original_layout(folder, config, tensors, dtype)
    return _transformers_layout(folder, config, tensors, dtype)


def check_names(empty_model: EmptyModel, tensors: dict[str, Stored]) -> Iterator[Finding]:
    """Report missing tensors, wrong shapes and unknown tensors."""
    again = "Download the folder again, all files at one revision; merge a fine-tuned adapter before saving."
    if missing := empty_model.missing:
        if len(missing) == empty_model.weights:
            seen = f"None of the model's weights is stored; the first stored tensor is {min(tensors, key=natural)}."
            again = "The names are of another layout: use the revision that was published with this config.json."
        else:
            seen = f"{len(missing)} of {empty_model.weights} are missing, {missing[0]} first."
        yield problem("names", seen, again)
    if empty_model.misshapen:
        name, stored, expected = empty_model.misshapen[0]
        differing = len(empty_model.misshapen)
        yield problem(
            "shapes",
            f"{differing} shapes differ from config.json, {name} first: {stored} instead of {expected}.",
            f"config.json is of another model or revision. {again}",
        )
    if empty_model.unknown:
        seen = f"{len(empty_model.unknown)} tensors are not part of the model, {empty_model.unknown[0]} first"
        if empty_model.unknown_refused:
            yield problem("names", f"{seen}.", again)
        elif not empty_model.missing:
            yield warning("names", f"{seen}; they are ignored.", "If the answers are correct, no action is needed.")
    if not (empty_model.missing or empty_model.misshapen or empty_model.unknown):
        yield ok("names", f"all {empty_model.weights} weights of the model are stored, with the right shapes")


def _original_layout(
    folder: Path, config: dict[str, Any], tensors: dict[str, Stored], dtype: torch.dtype
) -> EmptyModel:
    """GLM-4V-9B: the names and shapes that engine/model/shards.py checks."""
    network = empty_network(config)
    expected = original_shapes(network, original_name)
    stored = {name: tensor.shape for name, tensor in tensors.items() if name not in IGNORED}
    generation = folder / "generation_config.json"
    eos = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if eos is not None:
        config = config | {"eos_token_id": eos}
    return _compared(Glm4v9bAdapter(network, config, dtype), expected, stored, unknown_refused=True)


def _compared(
    family: ModelAdapter, expected: dict[str, Shape], stored: dict[str, Shape], *, unknown_refused: bool
) -> EmptyModel:
    return EmptyModel(
        family,
        weights=len(expected),
        missing=_sorted(expected.keys() - stored.keys()),
        misshapen=tuple(
            (name, stored[name], expected[name])
            for name in _sorted(expected.keys() & stored.keys())
            if stored[name] != expected[name]
        ),
        unknown=_sorted(stored.keys() - expected.keys()),
        unknown_refused=unknown_refused,
    )


def _transformers_layout(
    folder: Path, config: dict[str, Any], tensors: dict[str, Stored], dtype: torch.dtype
) -> EmptyModel:
    """GLM-4.xV: `from_pretrained` with empty tensors, which renames and compares them."""
    if not (folder / "preprocessor_config.json").is_file():
        seen = "There is no preprocessor_config.json, which defines how pictures are resized and normalised."
        raise CheckEnded(problem("pictures", seen, "Download it from the model's page, at the same revision."))
    quantized = config.get("quantization_config") is not None
    empty = glm4v.empty_network(folder)
    if (compression := CompressedTensors.of(config)) is not None:
        return _compressed(folder, empty.to(dtype), compression, tensors)
    model, report = type(empty).from_pretrained(
        None,
        config=empty.config,
        state_dict={name: torch.empty(tensor.shape, dtype=dtype, device="meta") for name, tensor in tensors.items()},
        dtype=dtype,
        device_map={"": "meta"},
        ignore_mismatched_sizes=True,  # in the report instead of an exception
        output_loading_info=True,
    )
    model.generation_config = empty.generation_config
    misshapen = [
        (name, tuple(stored), tuple(expected))
        for name, stored, expected in report["mismatched_keys"]
        if not (quantized and name in tensors and not tensors[name].is_float)  # packed, two elements in a byte
    ]
    unknown = [name for name in report["unexpected_keys"] if not (quantized and _is_quantized_part(name))]
    return EmptyModel(
        Glm4vAdapter(model, folder, dtype, torch.device("meta")),
        weights=len(model.state_dict()),
        missing=_sorted(report["missing_keys"]),
        misshapen=tuple(sorted(misshapen, key=lambda difference: natural(difference[0]))),
        unknown=_sorted(unknown),
        unknown_refused=False,
    )


def _compressed(folder: Path, model: Any, compression: CompressedTensors, tensors: dict[str, Stored]) -> EmptyModel:
    """GLM-4.xV in the compressed-tensors format: the names and shapes that engine/model/shards.py checks."""
    weights = original_shapes(model, lambda name: name)
    compressed = compression.find(weights, tensors)
    modules = {name.removesuffix("weight") for name in compressed}  # with scales of inputs, which are not used
    expected = stored_shapes(weights, compressed)
    stored = {
        name: tensor.shape
        for name, tensor in tensors.items()
        if name in expected or name[: name.rfind(".") + 1] not in modules
    }
    family = Glm4vAdapter(model, folder, model.dtype, torch.device("meta"))
    return _compared(family, expected, stored, unknown_refused=False)


def quantized_bytes(tensors: dict[str, Stored], dtype: torch.dtype) -> int:
    """Bytes of a checkpoint that is stored quantized: packed tensors unchanged, others in `dtype`."""
    return sum(
        tensor.elements * (dtype.itemsize if tensor.is_float and not _is_quantized_part(name) else tensor.itemsize)
        for name, tensor in tensors.items()
    )


def _is_quantized_part(name: str) -> bool:
    return ".quant_state." in name or name.endswith(_QUANTIZED_PARTS)


def _sorted(names: Any) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural))
