"""The engine on a CUDA device: the same truths as on the CPU, quantized weights, memory that stays put."""

from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.contracts import Sampling
from serve_app.engine.model.weights import load
from serve_app.engine.replica import EngineReplica
from serve_app.metrics import SilentMeter
from serve_app.settings import EngineSettings, MetricsSettings, ModelSettings
from tests.engine.conftest import prompt, write_tiny_model
from tests.engine.model.test_slot_runner import answers, mixed_prompts

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def test_a_mixed_batch_gives_what_each_prompt_gives_alone(folder: Path) -> None:
    model = load(folder, ModelSettings(path=str(folder), device="cuda", dtype="float32")).model
    prompts = mixed_prompts(Sampling(max_tokens=20, temperature=0.0))
    assert answers(model, prompts) == [answers(model, [one])[0] for one in prompts]


def test_seeded_answers_are_the_same_alone_and_in_the_batch(folder: Path) -> None:
    model = load(folder, ModelSettings(path=str(folder), device="cuda", dtype="float32")).model
    prompts = mixed_prompts(Sampling(max_tokens=20, temperature=0.9, top_p=0.95, seed=11))
    assert answers(model, prompts) == [answers(model, [one])[0] for one in prompts]


def test_a_gpu_gives_the_answers_of_a_cpu(folder: Path) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=20, temperature=0.0))
    gpu, cpu = (
        load(folder, ModelSettings(path=str(folder), device=device, dtype="float32")).model  # type: ignore[arg-type]
        for device in ("cuda", "cpu")
    )
    assert answers(gpu, prompts) == answers(cpu, prompts)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_weights_load_and_answer(folder: Path, quantization: str) -> None:
    loaded = load(folder, ModelSettings(path=str(folder), device="cuda", quantization=quantization))  # type: ignore[arg-type]
    assert loaded.model.dtype == torch.float32 or loaded.model.dtype == torch.bfloat16
    rule = Sampling(max_tokens=6, temperature=0.0, ignore_eos=True)  # the random model may choose a stop token
    assert all(len(answer) == 6 for answer in answers(loaded.model, mixed_prompts(rule)))


def test_fp8_weights_load_and_answer(folder: Path) -> None:
    loaded = load(folder, ModelSettings(path=str(folder), device="cuda", dtype="bfloat16", quantization="fp8"))
    assert loaded.quantization == "fp8"
    rule = Sampling(max_tokens=6, temperature=0.0, ignore_eos=True)  # the random model may choose a stop token
    assert all(len(answer) == 6 for answer in answers(loaded.model, mixed_prompts(rule)))


async def test_memory_does_not_creep_over_many_requests(folder: Path) -> None:
    replica = EngineReplica(
        ModelSettings(path=str(folder), device="cuda"),
        EngineSettings(max_slots=4, feature_cache_mib=1),
        MetricsSettings(),
        SilentMeter(),
    )
    rng = np.random.default_rng(0)

    async def ask(count: int) -> int:
        for index in range(count):
            one = prompt(f"q{index}", rng, Sampling(max_tokens=4, temperature=1.0), pictures=1, text=20)
            assert [together async for together in replica.generate(one)]
        return torch.cuda.memory_allocated()

    after_some = await ask(40)
    after_many = await ask(160)
    replica.close()
    assert after_many <= after_some + 2**20
