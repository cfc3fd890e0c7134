"""The checkpoint's folder, from file names and headers alone: found, whole, and no stand-ins."""

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
_AGAIN = "Download the folder again, whole and at one revision"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a shard's header has it."""

    dtype: str  # safetensors' name: BF16, F32, U8, ...
    shape: tuple[int, ...]
    shard: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes an element; safetensors' names end in the number of bits, but for those of one byte."""
        return int(self.dtype[-2:]) // 8 if self.dtype[-2:] in ("16", "32", "64") else 1

    @property
    def is_float(self) -> bool:
        return "F" in self.dtype


def find_folder(model: ModelSettings, cache: Path | None = None) -> Path:
    """The checkpoint's folder without any network call; `CheckEnded` for one still to be downloaded.

    `cache` is the hub's cache folder; None: where its library has it.
    """
    folder = Path(model.source).expanduser()
    if folder.is_dir() or folder.is_absolute() or model.source.startswith((".", "~")):
        return checkpoint_folder(model)

    # Imported late: local folders never need it.
    from huggingface_hub import constants, is_offline_mode, snapshot_download

    cache = cache or Path(constants.HF_HUB_CACHE)
    try:
        folder = Path(snapshot_download(model.source, revision=model.revision, cache_dir=cache, local_files_only=True))
    except Exception as error:  # of many classes, for ids that can't be one and for those not in the cache
        seen = f"{model.source} is no folder here and not in the hub cache ({cache})"
        raise CheckEnded(to_download(seen, _free_bytes(cache), is_offline_mode())) from error
    if missing := _missing(folder):
        seen = f"{folder} lacks {_listed(missing)}: the download broke off"
        raise CheckEnded(to_download(seen, _free_bytes(cache), is_offline_mode()))
    return folder


def _missing(folder: Path) -> list[str]:
    """Files without which a download is not complete."""
    index = folder / "model.safetensors.index.json"
    weights = set(_weight_map(index).values()) if index.is_file() else {"model.safetensors"}
    return sorted(name for name in {"config.json", *weights} if not (folder / name).is_file())


def to_download(seen: str, free_bytes: int, offline: bool) -> Finding:
    """What to make of a model that is not here (yet); `free_bytes` are the hub cache's disk's."""
    if offline:
        return problem(
            "folder",
            f"{seen}, and HF_HUB_OFFLINE forbids to download it",
            "Give the path of a folder, or download the model on a machine with network access.",
        )
    if free_bytes < _LARGEST_CHECKPOINT:
        return warning(
            "folder",
            f"{seen}; the disk there has {sized(free_bytes)} free, a GLM vision model takes 20 to 28 GB",
            "Make room, or set HF_HOME to a folder on a larger disk, before `up` downloads it.",
        )
    return warning(
        "folder",
        f"{seen}; `up` will download it ({sized(free_bytes)} are free)",
        "Nothing, if this is a model's id on the hub; run the doctor again when it is there. If a folder was meant, it"
        " does not exist.",
    )


def _free_bytes(folder: Path) -> int:
    """Of the disk where `folder` is, or will be."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json`; `CheckEnded` if there is none that can be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckEnded(problem("config", f"config.json can't be read: {error}", f"{_AGAIN}.")) from error
    if not isinstance(config, dict):
        raise CheckEnded(problem("config", "config.json is no JSON object", f"{_AGAIN}."))
    return config


def check_pointers(folder: Path) -> None:
    """Git without LFS leaves small texts in place of large files; `CheckEnded` if it did here."""
    pointers = sorted(file.name for file in folder.iterdir() if _is_pointer(file))
    if pointers:
        what = "is a Git-LFS pointer" if len(pointers) == 1 else "are Git-LFS pointers"
        seen = f"{_listed(pointers)} {what}, not the file itself"
        raise CheckEnded(problem("Git LFS", seen, f"git lfs install && git -C {folder} lfs pull"))


def _is_pointer(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size > _LARGEST_POINTER:
        return False
    return file.read_bytes().startswith(_LFS_POINTER)


def check_code(folder: Path) -> Iterator[Finding]:
    """Code in a model's folder is nothing to be afraid of here."""
    if code := sorted(file.name for file in folder.glob("*.py")):
        yield ok("code", f"{_listed(code)}: never run, the model's code is this package's and transformers' own")


def read_shards(folder: Path, needs_index: bool = True) -> tuple[dict[str, Stored], list[Finding]]:
    """Every tensor that the shards' headers name, and what is wrong with them; no weights are read.

    `needs_index`: the family's loader finds several shards by their index only.
    """
    files, findings = _shards(folder, needs_index)
    tensors: dict[str, Stored] = {}
    for file in files:
        try:
            tensors |= _header(file)
        except (OSError, ValueError) as error:
            findings.append(problem("weights", f"{file.name}: {error}", f"{_AGAIN}, or this file of it."))
    if all(finding.status != Status.PROBLEM for finding in findings):
        findings += _against_index(folder, tensors) or [_whole(files, tensors)]
    return tensors, findings


def _shards(folder: Path, needs_index: bool) -> tuple[list[Path], list[Finding]]:
    """The files that the loader would read, in its order of preference."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    shards = sorted(folder.glob("model-*.safetensors"))
    if single.is_file():
        if not shards:
            return [single], []
        return [single], [
            warning(
                "weights",
                f"model.safetensors lies beside {len(shards)} shards, and it alone is read",
                "Remove what does not belong to the model: the one file, or the shards and their index.",
            )
        ]
    if index.is_file():
        return sorted(folder / name for name in set(_weight_map(index).values())), []
    if shards:
        lacking = problem("weights", "there are shards, but no model.safetensors.index.json", f"{_AGAIN}.")
        return shards, [lacking] if needs_index else []
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return [], [
            problem(
                "weights",
                f"only pickled weights ({_listed(pickles)}), which could run any code and are never loaded",
                "Get the revision with model*.safetensors, or convert them where you trust them (save_pretrained).",
            )
        ]
    return [], [problem("weights", "there is no model.safetensors, nor shards of it", f"{_AGAIN}.")]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(place, str) for place in places.values()):
            raise TypeError("weight_map holds what is no file name")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckEnded(problem("weights", f"{index.name} can't be read: {error!r}", f"{_AGAIN}.")) from error
    return places


def _header(file: Path) -> dict[str, Stored]:
    """Tensors of one file; ValueError says what is wrong with it.

    Eight bytes of header length, the header as JSON, the tensors' bytes: github.com/huggingface/safetensors.
    """
    if not file.is_file():
        raise ValueError("is not there")
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, _LARGEST_HEADER):
            raise ValueError(f"is no safetensors file, or only the beginning of one ({size:,} bytes)")
        try:
            header = json.loads(stream.read(header_bytes))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            tensors = {name: Stored(entry["dtype"], tuple(entry["shape"]), file.name) for name, entry in header.items()}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"its header can't be read: {error!r}") from error
    whole = 8 + header_bytes + max(ends, default=0)
    if size != whole:
        raise ValueError(f"has {size:,} bytes of {whole:,}: {'cut off' if size < whole else 'more than its own'}")
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
    seen = f"{len(elsewhere)} weights are not in the shards that the index names, {elsewhere[0]} first"
    return [problem("weights", seen, f"{_AGAIN}: index and shards are of different ones.")]


def _whole(files: list[Path], tensors: dict[str, Stored]) -> Finding:
    size = sum(file.stat().st_size for file in files)
    stored = Counter[str]()
    for tensor in tensors.values():
        stored[tensor.dtype] += tensor.elements
    kinds = ", ".join(kind for kind, _ in stored.most_common(3))
    count = "1 file" if len(files) == 1 else f"{len(files)} shards"
    return ok("weights", f"{count}, all whole: {len(tensors)} tensors in {sized(size)}, stored as {kinds}")


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more files"


def natural(name: str) -> list[int | str]:
    """A sort key that counts layers as people do."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]
