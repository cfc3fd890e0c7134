from pathlib import Path

import pytest

from serve_app.engine.model.weights import load
from serve_app.errors import InvalidRequest
from serve_app.model_families import MODEL_FAMILIES, ModelFamily, model_family
from serve_app.preprocess.family_processor import load_processor
from serve_app.settings import ModelSettings, PreprocessSettings

VISION = {"vision_config": {}}


@pytest.mark.parametrize("family", MODEL_FAMILIES, ids=lambda family: family.name)
def test_each_family_has_a_processor_and_an_adapter(family: ModelFamily) -> None:
    assert callable(family.processor_class().tokenize)
    assert callable(family.adapter_class().load)


@pytest.mark.parametrize(("model_type", "name"), [("glm4v", "glm4v"), ("glm46v", "glm4v"), ("chatglm", "glm4v_9b")])
def test_the_family_follows_from_the_model_type(model_type: str, name: str) -> None:
    assert model_family({"model_type": model_type, **VISION}, "m").name == name


def test_no_model_type_belongs_to_two_families() -> None:
    types = [model_type for family in MODEL_FAMILIES for model_type in family.model_types]
    assert len(types) == len({*types})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "llama", **VISION}, "The model in m has model_type 'llama'. This type is not supported. Use"),
        ({}, "model_type None"),
        ({"model_type": "glm4v"}, "no vision_config: it is a text model"),
        ({"model_type": "chatglm", **VISION, "quantization_config": {"quant_method": "gptq"}}, "stored quantized"),
    ],
)
def test_what_is_not_supported_is_refused_with_the_models_that_are(config: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        model_family(config, "m")
    assert refused.value.param == "model.path"


def test_a_mixture_of_experts_is_refused_by_engine_and_preprocess_alike(tmp_path: Path) -> None:
    """Preprocess accepted glm4v_moe, and the engine refused it as an unknown type."""
    (tmp_path / "config.json").write_text('{"model_type": "glm4v_moe", "vision_config": {}}')
    model = ModelSettings(path=str(tmp_path))
    for refuse in (
        lambda: load(tmp_path, model),
        lambda: load_processor(tmp_path, model, PreprocessSettings()),
    ):
        with pytest.raises(InvalidRequest, match=r"mixture-of-experts text model is not supported\. Use GLM-4"):
            refuse()


def test_positions_are_read_from_the_familys_own_field() -> None:
    glm4v, glm4v_9b = MODEL_FAMILIES
    assert glm4v.positions({"text_config": {"max_position_embeddings": 65_536}}) == 65_536
    assert glm4v_9b.positions({"seq_length": 8192}) == 8192
    assert glm4v.positions({}) is None
