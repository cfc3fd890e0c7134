"""Captured decode steps give the tokens that eager ones give, for both families and quantized weights."""

from pathlib import Path
from typing import Any

import pytest

from serve_app.contracts import Prompt, Sampling
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.weights import load_model
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.scheduler import Scheduler
from serve_app.metrics import SilentMeter
from serve_app.settings import ModelSettings
from tests.engine.conftest import write_tiny_model
from tests.engine.model.original_glm4v_9b import SMALL, write_folder
from tests.engine.model.test_glm4v_9b import questions
from tests.engine.model.test_slot_runner import mixed_prompts

pytestmark = pytest.mark.gpu


def answers(model: ModelAdapter, prompts: list[Prompt], context_tokens: int, captured: bool) -> list[list[int]]:
    runner = SlotRunner(model, 8, context_tokens)
    if captured:
        runner.capture_graphs()
    vocabulary = Vocabulary([b"x"] * model.vocab_size)
    loop = EngineLoop(
        runner, vocabulary, Scheduler(8, 64, len(prompts)), FeatureCache(2**20), SilentMeter()
    )  # fmt: skip
    events: dict[str, list[Any]] = {prompt.id: [] for prompt in prompts}
    for prompt in prompts:
        loop.submit(loop.admission.admit(prompt, events[prompt.id].append))
    sequences = list(loop._inbox)
    while loop.step():
        pass
    return [sequence.generated for sequence in sequences if not isinstance(sequence, str)]


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_captured_steps_give_the_tokens_of_eager_ones(tmp_path: Path, quantization: str) -> None:
    folder = write_tiny_model(tmp_path)
    dtype = "float32" if quantization == "none" else "bfloat16"
    settings = ModelSettings(path=str(folder), device="cuda", dtype=dtype, quantization=quantization)  # type: ignore[arg-type]
    model = load_model(folder, settings)
    prompts = mixed_prompts(Sampling(max_tokens=20, temperature=0.0))
    assert answers(model, prompts, 1024, captured=True) == answers(model, prompts, 1024, captured=False)


def test_captured_steps_of_glm_4v_9b_give_the_tokens_of_eager_ones(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    model = load_model(folder, ModelSettings(path=str(folder), device="cuda", dtype="float32"))
    prompts = [one for one, _ in questions(SMALL, max_tokens=16)]
    assert answers(model, prompts, 64, captured=True) == answers(model, prompts, 64, captured=False)
