"""Where a checkpoint's files are: a local folder as it is, a hub id downloaded with progress."""

from pathlib import Path

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
