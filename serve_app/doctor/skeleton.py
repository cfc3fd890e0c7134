"""The model that config.json describes, built by the loader's own classes and held to the shards.

It has no weights: it lives on the meta device, where tensors have shapes only, so that a model of any
size takes a second or two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from serve_app.doctor.files import Stored, natural
from serve_app.doctor.report import CheckEnded, Finding, ok, problem, warning
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.families.glm4v_9b import IGNORED, Glm4v9bAdapter, empty_network, original_name
from serve_app.engine.model.shards import original_shapes, read_json
from serve_app.engine.model.weights import ADAPTERS

Shape = tuple[int, ...]

# What bitsandbytes stores beside a quantized weight, under the weight's name.
_QUANTIZED_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format")


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The family's adapter over an empty model, and where the stored weights differ from it."""

    family: ModelAdapter
    weights: int  # tensors, as the checkpoint's layout counts them
    missing: tuple[str, ...]
    misshapen: tuple[tuple[str, Shape, Shape], ...]  # name, as stored, as config.json has it
    unknown: tuple[str, ...]
    unknown_refused: bool  # by the loader; else it leaves them out


def check_type(config: dict[str, Any]) -> Iterator[Finding]:
    """Whether the family is one of the loader's; `CheckEnded` if not."""
    kind, architectures = config.get("model_type"), config.get("architectures") or ["unknown class"]
    if kind not in ADAPTERS:
        raise CheckEnded(
            problem(
                "family",
                f"model_type {kind!r} ({architectures[0]}) is not served; {', '.join(sorted(ADAPTERS))} are",
                "Serve GLM-4.6V-Flash, GLM-4.1V-9B-Thinking (glm4v) or GLM-4V-9B (chatglm).",
            )
        )
    if "vision_config" not in config:
        raise CheckEnded(
            problem(
                "family",
                f"model_type {kind!r} without a vision_config: a text model, which sees no pictures",
                "Choose a GLM model with a V in its name.",
            )
        )
    yield ok("family", f"{kind}, {architectures[0]}")


def needs_index(config: dict[str, Any]) -> bool:
    """Whether the family's loader finds several shards by their index only."""
    return ADAPTERS[config["model_type"]] is not Glm4v9bAdapter


def build(folder: Path, config: dict[str, Any], tensors: dict[str, Stored], dtype: torch.dtype) -> Skeleton:
    """The empty model and its differences from `tensors`.

    Raises InvalidRequest for a config that can't be served, and CheckEnded for a file that the family needs.
    """
    if ADAPTERS[config["model_type"]] is Glm4v9bAdapter:
        return _original_layout(folder, config, tensors, dtype)
    return _transformers_layout(folder, tensors, dtype)


def check_names(skeleton: Skeleton, tensors: dict[str, Stored]) -> Iterator[Finding]:
    """Every weight there, of the right shape, and none that belongs to another model."""
    again = "Download the folder again, all files at one revision; a fine-tune has to be merged and saved whole."
    if missing := skeleton.missing:
        if len(missing) == skeleton.weights:
            seen = f"none of the model's weights is there; the first stored one is {min(tensors, key=natural)}"
            again = "The shards have another layout's names: get the revision that was published for this config.json."
        else:
            seen = f"{len(missing)} of {skeleton.weights} are missing, {missing[0]} first"
        yield problem("names", seen, again)
    if skeleton.misshapen:
        name, stored, expected = skeleton.misshapen[0]
        yield problem(
            "shapes",
            f"{len(skeleton.misshapen)} are not as config.json says, {name} first: {stored} instead of {expected}",
            f"config.json is another model's or another revision's. {again}",
        )
    if skeleton.unknown:
        seen = f"{len(skeleton.unknown)} are no part of the model, {skeleton.unknown[0]} first"
        if skeleton.unknown_refused:
            yield problem("names", seen, again)
        elif not skeleton.missing:
            yield warning("names", f"{seen}; they are left out", "Nothing, if answers are good.")
    if not (skeleton.missing or skeleton.misshapen or skeleton.unknown):
        yield ok("names", f"all {skeleton.weights} weights of the model are there, in its shapes")


def _original_layout(folder: Path, config: dict[str, Any], tensors: dict[str, Stored], dtype: torch.dtype) -> Skeleton:
    """GLM-4V-9B: what `engine.shards.fill` would refuse."""
    network = empty_network(config)
    expected = original_shapes(network, original_name)
    stored = {name: tensor.shape for name, tensor in tensors.items() if name not in IGNORED}
    generation = folder / "generation_config.json"
    eos = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if eos is not None:
        config = config | {"eos_token_id": eos}
    return Skeleton(
        Glm4v9bAdapter(network, config, dtype),
        weights=len(expected),
        missing=_sorted(expected.keys() - stored.keys()),
        misshapen=tuple(
            (name, stored[name], expected[name])
            for name in _sorted(expected.keys() & stored.keys())
            if stored[name] != expected[name]
        ),
        unknown=_sorted(stored.keys() - expected.keys()),
        unknown_refused=True,
    )


def _transformers_layout(folder: Path, tensors: dict[str, Stored], dtype: torch.dtype) -> Skeleton:
    """GLM-4.xV: `from_pretrained` itself, renaming included, fed with shapes."""
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    if not (folder / "preprocessor_config.json").is_file():
        seen = "there is no preprocessor_config.json, which says how pictures are cut and normalised"
        raise CheckEnded(problem("pictures", seen, "Get it from the model's page, of the same revision."))
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    quantized = getattr(config, "quantization_config", None) is not None
    if quantized:
        del config.quantization_config  # the meta device holds nothing to unpack
    with torch.device("meta"):
        kind = type(AutoModelForImageTextToText.from_config(config))
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict={name: torch.empty(tensor.shape, dtype=dtype, device="meta") for name, tensor in tensors.items()},
        dtype=dtype,
        device_map={"": "meta"},
        ignore_mismatched_sizes=True,  # told in the report instead of raised
        output_loading_info=True,
    )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    misshapen = [
        (name, tuple(stored), tuple(expected))
        for name, stored, expected in report["mismatched_keys"]
        if not (quantized and name in tensors and not tensors[name].is_float)  # packed, two to a byte
    ]
    unknown = [name for name in report["unexpected_keys"] if not (quantized and _is_quantized_part(name))]
    return Skeleton(
        Glm4vAdapter(model, folder, dtype, torch.device("meta")),
        weights=len(model.state_dict()),
        missing=_sorted(report["missing_keys"]),
        misshapen=tuple(sorted(misshapen, key=lambda difference: natural(difference[0]))),
        unknown=_sorted(unknown),
        unknown_refused=False,
    )


def quantized_bytes(tensors: dict[str, Stored], dtype: torch.dtype) -> int:
    """Memory of a checkpoint that is stored quantized: what is packed stays so, the rest is held in `dtype`."""
    return sum(
        tensor.elements * (dtype.itemsize if tensor.is_float and not _is_quantized_part(name) else tensor.itemsize)
        for name, tensor in tensors.items()
    )


def _is_quantized_part(name: str) -> bool:
    return ".quant_state." in name or name.endswith(_QUANTIZED_PARTS)


def _sorted(names: Any) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural))
