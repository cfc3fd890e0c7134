"""The table of supported model families: what engine, preprocess, doctor and plan need to know of each.

A checkpoint's family follows from `model_type` in its config.json. CONTRIBUTING.md lists the steps to add one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from serve_app.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """One family; classes are named as "module:class" and imported on first use, for they need torch or PIL."""

    name: str
    model_types: tuple[str, ...]  # of config.json
    checkpoints: tuple[str, ...]  # the published models
    processor: str  # preprocess: prompts and picture sizes, a FamilyProcessor
    adapter: str  # engine: weights, picture features, positions: a ModelAdapter
    weight_layout: Literal["transformers", "original"]  # names of the stored tensors; original: the authors' own
    positions_field: tuple[str, ...]  # path in config.json to the number of positions
    max_pictures: int | None = None  # in a conversation; None: as many as fit
    square_pictures: bool = False  # every picture is resized to one square
    quantized_checkpoints: bool = True  # whether weights that are stored quantized can be loaded

    def processor_class(self) -> Any:
        return _import_class(self.processor)

    def adapter_class(self) -> Any:
        return _import_class(self.adapter)

    def positions(self, config: Mapping[str, Any]) -> int | None:
        """How many positions config.json gives the model; None if it does not say."""
        value: Any = config
        for field in self.positions_field:
            value = value.get(field, {})
        return int(value) if value else None


MODEL_FAMILIES: Final = (
    ModelFamily(
        name="glm4v",
        model_types=("glm4v", "glm46v"),
        checkpoints=("GLM-4.6V-Flash", "GLM-4.1V-9B-Thinking"),
        processor="serve_app.preprocess.glm4v:Glm4vProcessor",
        adapter="serve_app.engine.model.families.glm4v:Glm4vAdapter",
        weight_layout="transformers",
        positions_field=("text_config", "max_position_embeddings"),
    ),
    ModelFamily(
        name="glm4v_9b",
        model_types=("chatglm",),
        checkpoints=("GLM-4V-9B",),
        processor="serve_app.preprocess.glm4v_9b:Glm4v9bProcessor",
        adapter="serve_app.engine.model.families.glm4v_9b:Glm4v9bAdapter",
        weight_layout="original",
        positions_field=("seq_length",),
        max_pictures=1,
        square_pictures=True,
        quantized_checkpoints=False,
    ),
)

# Relatives that are refused with the reason, not as unknown types.
_UNSUPPORTED: Final = {"glm4v_moe": "Its mixture-of-experts text model is not supported."}


def model_family(config: Mapping[str, Any], source: Path | str, param: str = "model.path") -> ModelFamily:
    """The family of a checkpoint's config.json; `source` says in errors where the checkpoint is.

    Raises InvalidRequest for a model that this service does not support.
    """
    model_type = config.get("model_type")
    family = next((family for family in MODEL_FAMILIES if model_type in family.model_types), None)
    if family is None:
        reason = _UNSUPPORTED.get(str(model_type), "This type is not supported.")
        raise InvalidRequest(f"The model in {source} has model_type {model_type!r}. {reason} {_advice()}", param)
    if "vision_config" not in config:
        raise InvalidRequest(
            f"The model in {source} has model_type {model_type!r} and no vision_config: it is a text model and"
            f" cannot see pictures. {_advice()}",
            param,
        )
    if config.get("quantization_config") and not family.quantized_checkpoints:
        raise InvalidRequest(
            f"The weights in {source} are stored quantized (quantization_config), which is not supported for"
            f" model_type {model_type!r}. Use the unquantized checkpoint and set model.quantization.",
            param,
        )
    return family


def _advice() -> str:
    served = (f"{' or '.join(family.checkpoints)} ({', '.join(family.model_types)})" for family in MODEL_FAMILIES)
    return f"Use {', or '.join(served)}."


def _import_class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
