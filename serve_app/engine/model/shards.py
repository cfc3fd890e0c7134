"""Loads safetensors shards into a network: checks names and shapes, then gives each parameter its values."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from serve_app.engine.model.compressed_tensors import CompressedTensors, Shapes, expand_weights, stored_shapes
from serve_app.engine.model.quantization import device_to_read, materialize
from serve_app.engine.model.shard_reader import StoredTensor, read_tensors, stored_tensors
from serve_app.errors import InvalidRequest


def fill_weights(
    network: nn.Module,
    folder: Path,
    original_name: Callable[[str], str],
    ignored: Collection[str] | None,
    dtype: torch.dtype,
    device: torch.device,
    compression: CompressedTensors | None = None,
) -> None:
    """Load the weights in `folder` into a meta-device network, on `device` and in `dtype`.

    `original_name` maps a parameter to its tensor in the checkpoint; parameters of one tensor are its rows, in
    the order of the network. `ignored` tensors are not read; None: all that are not the network's. `compression`
    says how weights are stored compressed. Raises `InvalidRequest`, before any weight is read, if names or shapes
    differ from those of the network.
    """
    parameters, parts = dict(network.named_parameters()), _parts(network, original_name)
    stored = {tensor.name: tensor for file in shard_files(folder) for tensor in checked_tensors(file)}
    weights = original_shapes(network, original_name)
    compressed = compression.find(weights, stored) if compression else {}
    expected = stored_shapes(weights, compressed)
    unread = stored.keys() - expected.keys() if ignored is None else ignored
    found = {name: tensor.shape for name, tensor in stored.items() if name not in unread}
    _compare(folder.name, expected, found)
    weight_of = {part: name for name, weight in compressed.items() for part in weight.parts}
    together: dict[str, list[str]] = defaultdict(list)  # the parts of a weight
    for part in found:
        together[weight_of.get(part, part)].append(part)
    wanted = [
        (stored[part], device_to_read(network, parts[name][0], device))
        for name, weight_parts in together.items()
        for part in weight_parts
    ]
    try:
        for key, tensor in expand_weights(read_tensors(wanted, dtype, weight_of), compressed, dtype):
            names = parts[key]
            for name, rows in zip(names, tensor.split([parameters[name].shape[0] for name in names]), strict=True):
                module, _, attribute = name.rpartition(".")
                materialize(network.get_submodule(module), attribute, rows, device)
    except OSError as error:
        raise InvalidRequest(f"{folder.name} could not be read: {error}.", param="model.path") from error
    # Rotary frequencies are no weights, and on the meta device they had no values.
    for name, module in list(network.named_modules()):
        if not module._parameters and any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            network.set_submodule(name, type(module)(module.config).to(device))


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


def checked_tensors(file: Path) -> list[StoredTensor]:
    """The tensors of a file whose header is correct and which has all their bytes."""
    try:
        with safe_open(file, framework="pt"):
            pass
        return stored_tensors(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise InvalidRequest(f"{file.name} could not be read: {error}.", param="model.path") from error
