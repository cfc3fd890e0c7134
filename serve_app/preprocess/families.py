"""Which family a checkpoint is of, by its config.json."""

import json
from pathlib import Path

from serve_app.errors import InvalidRequest
from serve_app.preprocess import glm4v, glm4v_9b
from serve_app.preprocess.family import Family
from serve_app.settings import ModelSettings, PreprocessSettings


def family_of(folder: Path, model: ModelSettings, settings: PreprocessSettings) -> Family:
    """Read the checkpoint's tokenizer, template and sizes; raises InvalidRequest for what is not supported."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = config.get("model_type")
    if model_type in glm4v.MODEL_TYPES:
        return glm4v.Glm4v(folder, config, model, settings)
    if model_type == glm4v_9b.MODEL_TYPE:
        if "vision_config" not in config:
            raise InvalidRequest(
                f"the model in {folder} is of type {model_type!r} without vision_config: it sees no pictures",
                param="model.path",
            )
        return glm4v_9b.Glm4v9b(folder, config, model)
    raise InvalidRequest(
        f"the model in {folder} is of type {model_type!r};"
        f" supported are {', '.join((*glm4v.MODEL_TYPES, glm4v_9b.MODEL_TYPE))}",
        param="model.path",
    )
