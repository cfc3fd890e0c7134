"""GLM-4V-9B on a CUDA device: the numbers of the CPU, quantized tower and all, never whole on the way."""

from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.contracts import Prompt
from serve_app.engine.model.families.glm4v_9b import Glm4v9bAdapter
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.weights import load_model
from serve_app.settings import ModelSettings
from tests.engine.model.original_glm4v_9b import SMALL, changed, write_folder
from tests.engine.model.test_glm4v_9b import last_logits, questions, read
from tests.engine.model.test_slot_runner import answers

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("small"))


def on_gpu(folder: Path, **settings: Any) -> Glm4v9bAdapter:
    model = load_model(folder, ModelSettings(path=str(folder), device="cuda", **settings))
    assert isinstance(model, Glm4v9bAdapter)
    return model


def asked(**sampling: Any) -> list[Prompt]:
    return [one for one, _ in questions(SMALL, **sampling)]


def test_a_gpu_gives_the_logits_of_a_cpu(folder: Path) -> None:
    gpu, cpu = on_gpu(folder, dtype="float32"), read(folder)
    for one in asked():
        # cuDNN's convolutions round float32 to 19 bits (TF32) unless told otherwise.
        assert torch.allclose(last_logits(gpu, one).cpu(), last_logits(cpu, one), atol=2e-2)


def test_a_mixed_batch_gives_what_each_prompt_gives_alone(folder: Path) -> None:
    model, prompts = on_gpu(folder, dtype="float32"), asked(max_tokens=16)
    together = answers(model, prompts, context_tokens=64)
    assert together == [answers(model, [one], context_tokens=64)[0] for one in prompts]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_quantized_weights_load_and_answer(folder: Path, quantization: str, vision: bool, dtype: str) -> None:
    model = on_gpu(folder, quantization=quantization, quantize_vision=vision, dtype=dtype)
    SlotRunner(model, 1, 64).check_numbers()
    answered = answers(model, asked(max_tokens=6, ignore_eos=True), context_tokens=64)
    assert all(len(answer) == 6 for answer in answered)


def test_a_model_is_never_whole_on_the_gpu_while_it_is_quantized(tmp_path: Path) -> None:
    # Wide enough that the layers outweigh the embeddings, as in the full shape.
    sizes = {"hidden_size": 512, "ffn_hidden_size": 2048, "num_layers": 8, "kv_channels": 128}
    write_folder(tmp_path, changed(SMALL, **sizes))
    whole_bytes = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) // 2  # in bfloat16
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    on_gpu(tmp_path, quantization="nf4", quantize_vision=True, dtype="bfloat16")
    assert torch.cuda.max_memory_allocated() - before < whole_bytes / 2
