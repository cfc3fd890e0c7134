"""Finds the checkpoint's folder, local or the download of a Hugging Face id, and identifies its files."""

import hashlib
import json
from pathlib import Path
from typing import Any

from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]  # no pickles, no code
_READ_BYTES = 2**20

_UNREACHABLE_HINT = (
    " If huggingface.co can't be reached from here, set HF_ENDPOINT to a mirror of it (HF_ENDPOINT=https://hf-mirror.com),"
    " or download the model in another way, for example from ModelScope, and pass its folder (docs/models.md)."
)


def checkpoint_folder(model: ModelSettings, *, download: bool = True) -> Path:
    """The folder of the checkpoint, without any network call if it is local; raises InvalidRequest.

    Without `download`, a Hugging Face id must have been downloaded before.
    """
    folder = Path(model.source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InvalidRequest(f"The model folder {folder} has no config.json.", param="model.path")
        return folder
    if folder.is_absolute() or model.source.startswith((".", "~")):
        raise InvalidRequest(f"The model folder {folder} does not exist.", param="model.path")

    from huggingface_hub import snapshot_download  # imported late: local folders never need it
    from huggingface_hub.errors import LocalEntryNotFoundError  # the hub could not be reached

    try:
        found = snapshot_download(
            model.source, revision=model.revision, allow_patterns=_FILES, local_files_only=not download
        )
        return Path(found)
    except Exception as error:
        if not download:
            raise InvalidRequest(
                f"The model {model.source!r} has not been downloaded to this machine.", param="model.path"
            ) from error
        raise InvalidRequest(
            f"The model {model.source!r} is not a local folder, and its download failed: {str(error).rstrip('.')}."
            f"{_UNREACHABLE_HINT if isinstance(error, LocalEntryNotFoundError) else ''}",
            param="model.path",
        ) from error


def checkpoint_digest(folder: Path) -> str:
    """Hex SHA-256 of the names and sizes of the checkpoint's files and of the beginning and end of each.

    Two checkpoints differ in it where any small file or the first or last MiB of a large one differs.
    """
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in folder.glob(pattern)}):
        size = file.stat().st_size
        digest.update(json.dumps([file.name, size]).encode())
        with file.open("rb") as stream:
            begin = stream.read(_READ_BYTES)
            stream.seek(max(len(begin), size - _READ_BYTES))
            digest.update(begin + stream.read())
    return digest.hexdigest()


def image_processor_settings(folder: Path) -> dict[str, Any]:
    """The checkpoint's settings for pictures: sizes, patches, mean, deviation; raises InvalidRequest if it has none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            # newer checkpoints have all processors in one file, each under its own key
            settings: dict[str, Any] = found.get("image_processor", found)
            return settings
    raise InvalidRequest(f"The model folder {folder} has no preprocessor_config.json.", param="model.path")
