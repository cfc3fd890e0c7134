"""Fixtures of the demo model's tests: a font that every machine has, the folder's tokenizer and model."""

from collections.abc import Iterator

import pytest
from transformers import AutoTokenizer, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

from serve_app.settings import DEMO_MODEL
from training import fonts


@pytest.fixture(autouse=True, scope="package")
def any_font() -> Iterator[None]:
    """Facts do not depend on the font, so drawing is tested with Pillow's own font."""
    with fonts.builtin_font_only():
        yield


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


@pytest.fixture(scope="session")
def model() -> Glm4vForConditionalGeneration:
    return Glm4vForConditionalGeneration.from_pretrained(DEMO_MODEL, dtype="float32").eval()
