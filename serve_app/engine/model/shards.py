"""Reads safetensors shards: checks names and shapes, then loads tensor by tensor onto the device."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from serve_app.engine.model.quantization import materialize
from serve_app.errors import InvalidRequest

Shapes = dict[str, tuple[int, ...]]


def fill_weights(
    network: nn.Module,
    folder: Path,
    original_name: Callable[[str], str],
    ignored: Collection[str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Load the weights in `folder` into a meta-device network, on `device` and in `dtype`.

    `original_name` maps a parameter to its tensor in the checkpoint; parameters of one tensor are its rows, in
    the order of the network. One tensor at a time is in host memory. Raises `InvalidRequest`, before any weight
    is read, if names or shapes differ from those of the network.
    """
    parameters, parts = dict(network.named_parameters()), _parts(network, original_name)
    files = shard_files(folder)
    found = {key: shape for file in files for key, shape in _shapes(file).items() if key not in ignored}
    _compare(folder.name, original_shapes(network, original_name), found)
    for key, tensor in _tensors(files):
        if key in ignored:
            continue
        names = parts[key]
        for name, rows in zip(names, tensor.split([parameters[name].shape[0] for name in names]), strict=True):
            module, _, attribute = name.rpartition(".")
            materialize(network.get_submodule(module), attribute, rows.to(dtype), device)


def original_shapes(network: nn.Module, original_name: Callable[[str], str]) -> Shapes:
    """Names and shapes of the tensors that a checkpoint of this network holds."""
    parameters = dict(network.named_parameters())
    return {
        key: (sum(parameters[name].shape[0] for name in names), *parameters[names[0]].shape[1:])
        for key, names in _parts(network, original_name).items()
    }


def shard_files(folder: Path) -> list[Path]:
    """`model.safetensors`, else the shards in the index, else all shards in the folder. Never a pickle."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict):
            raise InvalidRequest(f"{index.name} has no weight_map.", param="model.path")
        return [folder / str(name) for name in sorted(set(places.values()))]
    if shards := sorted(folder.glob("model-*.safetensors")):
        return shards
    raise InvalidRequest(f"{folder.name} could not be loaded: it has no model.safetensors.", param="model.path")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint; raises `InvalidRequest` if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{file.name} of {file.parent.name} could not be read: {error}.", "model.path") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"{file.name} of {file.parent.name} holds no JSON object.", "model.path")
    return content


def _parts(network: nn.Module, original_name: Callable[[str], str]) -> dict[str, list[str]]:
    """Tensor names of the checkpoint, with the parameters that are in each."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name, _ in network.named_parameters():
        parts[original_name(name)].append(name)
    return parts


def _compare(where: str, expected: Shapes, found: Shapes) -> None:
    differing = {key for key, shape in expected.items() if found.get(key, shape) != shape}
    for complaint, keys in (
        ("lacks", expected.keys() - found.keys()),
        ("has, unlike its config,", found.keys() - expected.keys()),
        ("has another shape than its config says for", differing),
    ):
        if keys:
            first = min(keys)
            shapes = f" {found[first]} instead of {expected[first]}" if first in differing else ""
            raise InvalidRequest(
                f"{where} {complaint} {len(keys)} weights, first {first}{shapes}. Is it complete and of one revision?",
                param="model.path",
            )


def _shapes(file: Path) -> Shapes:
    """Names and shapes from a file's header."""
    with _open(file) as tensors:
        return {key: tuple(tensors.get_slice(key).get_shape()) for key in list(tensors.keys())}


def _tensors(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors on the CPU; the bytes are read from disk when they are used."""
    for file in files:
        with _open(file) as tensors:
            for key in list(tensors.keys()):
                yield key, tensors.get_tensor(key)


def _open(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InvalidRequest(f"{file.name} could not be read: {error}.", param="model.path") from error
