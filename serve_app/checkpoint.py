"""Where a checkpoint's files are: a local folder as it is, a hub id downloaded with progress."""

import json
from pathlib import Path
from typing import Any

from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]  # no pickles, no code


def checkpoint_folder(model: ModelSettings) -> Path:
    """The folder of the checkpoint; a local one is used without any network call."""
    folder = Path(model.source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InvalidRequest(f"the model folder {folder} has no config.json", param="model.path")
        return folder
    if folder.is_absolute() or model.source.startswith((".", "~")):
        raise InvalidRequest(f"the model folder {folder} does not exist", param="model.path")

    from huggingface_hub import snapshot_download  # imported late: local folders never need it

    try:
        return Path(snapshot_download(model.source, revision=model.revision, allow_patterns=_FILES))
    except Exception as error:
        raise InvalidRequest(
            f"the model {model.source!r} is neither a folder here nor could it be downloaded: {error}",
            param="model.path",
        ) from error


def image_processor_settings(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of its pictures: sizes, patches, mean and deviation; InvalidRequest if nothing."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            # newer checkpoints keep all processors in one file, each under its own key
            settings: dict[str, Any] = found.get("image_processor", found)
            return settings
    raise InvalidRequest(f"the model folder {folder} has no preprocessor_config.json", param="model.path")
