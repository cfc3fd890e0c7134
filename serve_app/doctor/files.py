"""Checks the checkpoint's folder by file names and headers: found, complete, no Git-LFS pointers."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.checkpoint import checkpoint_folder
from serve_app.doctor.report import CheckEnded, Finding, Status, ok, problem, sized, warning
from serve_app.settings import ModelSettings

_LFS_POINTER = b"version https://git-lfs"
_LARGEST_POINTER = 1024
_LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
_LARGEST_CHECKPOINT = 30 * 10**9  # GLM-4V-9B's shards are 27.8 GB
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_AGAIN = "Download the complete folder again, at one revision"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a shard's header describes it."""

    dtype: str  # safetensors' name: BF16, F32, U8, ...
    shape: tuple[int, ...]
    shard: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element; safetensors' names end in the number of bits, except for types of one byte."""
        return int(self.dtype[-2:]) // 8 if self.dtype[-2:] in ("16", "32", "64") else 1

    @property
    def is_float(self) -> bool:
        return "F" in self.dtype


def find_folder(model: ModelSettings, cache: Path | None = None) -> Path:
    """The checkpoint's folder without a network call. Raises CheckEnded if it must be downloaded first.

    `cache` is the hub's cache folder; None: the library's own.
    """
    folder = Path(model.source).expanduser()
    if folder.is_dir() or folder.is_absolute() or model.source.startswith((".", "~")):
        return checkpoint_folder(model)

    # Local folders do not need this import.
    from huggingface_hub import constants, is_offline_mode, snapshot_download

    cache = cache or Path(constants.HF_HUB_CACHE)
    try:
        folder = Path(snapshot_download(model.source, revision=model.revision, cache_dir=cache, local_files_only=True))
    except Exception as error:  # many classes: invalid ids, and ids that are not in the cache
        seen = f"{model.source} is neither a folder nor in the hub cache ({cache})"
        raise CheckEnded(to_download(seen, _free_bytes(cache), is_offline_mode())) from error
    if missing := _missing(folder):
        seen = f"{folder} lacks {_listed(missing)}: the download is incomplete"
        raise CheckEnded(to_download(seen, _free_bytes(cache), is_offline_mode()))
    return folder


def _missing(folder: Path) -> list[str]:
    """Files without which a download is not complete."""
    index = folder / "model.safetensors.index.json"
    weights = set(_weight_map(index).values()) if index.is_file() else {"model.safetensors"}
    return sorted(name for name in {"config.json", *weights} if not (folder / name).is_file())


def to_download(seen: str, free_bytes: int, offline: bool) -> Finding:
    """The finding for a model that must be downloaded; `free_bytes` of the disk of the hub's cache."""
    if offline:
        return problem(
            "folder",
            f"{seen}, and HF_HUB_OFFLINE forbids the download.",
            "Give the path of a folder, or download the model on a machine with network access.",
        )
    if free_bytes < _LARGEST_CHECKPOINT:
        return warning(
            "folder",
            f"{seen}; the disk has {sized(free_bytes)} free, and a GLM vision model takes 20 to 28 GB.",
            "Free disk space, or set HF_HOME to a folder on a larger disk, before `up` downloads it.",
        )
    return warning(
        "folder",
        f"{seen}; `up` will download it ({sized(free_bytes)} are free).",
        "If this is a model's id on the hub, run the doctor again after the download. If it is a folder, it does not"
        " exist.",
    )


def _free_bytes(folder: Path) -> int:
    """Free bytes of the disk where `folder` is or will be."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json. Raises CheckEnded if it can't be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckEnded(problem("config", f"config.json can't be read: {error}", f"{_AGAIN}.")) from error
    if not isinstance(config, dict):
        raise CheckEnded(problem("config", "config.json is not a JSON object.", f"{_AGAIN}."))
    return config


def check_pointers(folder: Path) -> None:
    """Raise CheckEnded if Git without LFS left small text files in place of large files."""
    pointers = sorted(file.name for file in folder.iterdir() if _is_pointer(file))
    if pointers:
        what = "is a Git-LFS pointer" if len(pointers) == 1 else "are Git-LFS pointers"
        seen = f"{_listed(pointers)} {what}, not the content."
        raise CheckEnded(problem("Git LFS", seen, f"git lfs install && git -C {folder} lfs pull"))


def _is_pointer(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size > _LARGEST_POINTER:
        return False
    return file.read_bytes().startswith(_LFS_POINTER)


def check_code(folder: Path) -> Iterator[Finding]:
    """Report code in the model's folder, which is never run."""
    if code := sorted(file.name for file in folder.glob("*.py")):
        yield ok("code", f"{_listed(code)}: never run; the model's code is this package's and transformers'")


def read_shards(folder: Path, needs_index: bool = True) -> tuple[dict[str, Stored], list[Finding]]:
    """All tensors in the shards' headers, and findings about the shards; no weights are read.

    `needs_index`: the family's loader finds several shards only by their index.
    """
    files, findings = _shards(folder, needs_index)
    tensors: dict[str, Stored] = {}
    for file in files:
        try:
            tensors |= _header(file)
        except (OSError, ValueError) as error:
            findings.append(problem("weights", f"{file.name}: {error}", f"{_AGAIN}, or only this file."))
    if all(finding.status != Status.PROBLEM for finding in findings):
        findings += _against_index(folder, tensors) or [_complete(files, tensors)]
    return tensors, findings


def _shards(folder: Path, needs_index: bool) -> tuple[list[Path], list[Finding]]:
    """The files that the loader would read."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    shards = sorted(folder.glob("model-*.safetensors"))
    if single.is_file():
        if not shards:
            return [single], []
        return [single], [
            warning(
                "weights",
                f"model.safetensors is beside {len(shards)} shards, and only model.safetensors is read.",
                "Remove what does not belong to the model: this file, or the shards and their index.",
            )
        ]
    if index.is_file():
        return sorted(folder / name for name in set(_weight_map(index).values())), []
    if shards:
        lacking = problem("weights", "There are shards, but no model.safetensors.index.json.", f"{_AGAIN}.")
        return shards, [lacking] if needs_index else []
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return [], [
            problem(
                "weights",
                f"There are only pickled weights ({_listed(pickles)}). They could run any code and are never loaded.",
                "Use the revision with model*.safetensors, or convert them if you trust them (save_pretrained).",
            )
        ]
    return [], [problem("weights", "There is neither a model.safetensors nor shards.", f"{_AGAIN}.")]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(place, str) for place in places.values()):
            raise TypeError("weight_map contains something that is not a file name")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckEnded(problem("weights", f"{index.name} can't be read: {error!r}", f"{_AGAIN}.")) from error
    return places


def _header(file: Path) -> dict[str, Stored]:
    """Tensors of one file. Raises ValueError for a file that is not valid.

    Format: 8 bytes of header length, the header as JSON, the tensors (github.com/huggingface/safetensors).
    """
    if not file.is_file():
        raise ValueError("The file is missing.")
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, _LARGEST_HEADER):
            raise ValueError(f"The file of {size:,} bytes is not a safetensors file, or only the beginning of one.")
        try:
            header = json.loads(stream.read(header_bytes))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            tensors = {name: Stored(entry["dtype"], tuple(entry["shape"]), file.name) for name, entry in header.items()}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"The header can't be read: {error!r}") from error
    expected = 8 + header_bytes + max(ends, default=0)
    if size != expected:
        raise ValueError(f"The file has {size:,} bytes instead of {expected:,}.")
    return tensors


def _against_index(folder: Path, tensors: dict[str, Stored]) -> list[Finding]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return []
    elsewhere = sorted(
        name for name, place in _weight_map(index).items() if name not in tensors or tensors[name].shard != place
    )
    if not elsewhere:
        return []
    seen = f"{len(elsewhere)} weights are not in the shards that the index names, {elsewhere[0]} first."
    return [problem("weights", seen, f"{_AGAIN}: index and shards are of different revisions.")]


def _complete(files: list[Path], tensors: dict[str, Stored]) -> Finding:
    size = sum(file.stat().st_size for file in files)
    stored = Counter[str]()
    for tensor in tensors.values():
        stored[tensor.dtype] += tensor.elements
    kinds = ", ".join(kind for kind, _ in stored.most_common(3))
    count = "1 file" if len(files) == 1 else f"{len(files)} shards"
    return ok("weights", f"{count}, complete: {len(tensors)} tensors in {sized(size)}, stored as {kinds}")


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more files"


def natural(name: str) -> list[int | str]:
    """A sort key that compares numbers in names as numbers."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]
