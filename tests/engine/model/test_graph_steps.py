"""Steps by graphs, on a CPU: a graph is emulated by computing its step again, all else is what runs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from transformers import Glm4vForConditionalGeneration

from serve_app.contracts import Sampling
from serve_app.engine.model import chunk_graphs, graphs
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.paged_runner import PagedRunner
from serve_app.engine.model.runner import Runner
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.trunk import Trunk
from serve_app.engine.model.weights import load_model
from serve_app.settings import ModelSettings
from tests.engine.model import test_slot_runner
from tests.engine.model.original_glm4v_9b import SMALL, write_folder
from tests.engine.model.test_glm4v_9b import questions
from tests.engine.model.test_paged_runner import Paged, follow_up
from tests.engine.model.test_slot_runner import mixed_prompts


@pytest.fixture(scope="module")
def adapter(tiny_model: Path) -> Glm4vAdapter:
    model = Glm4vForConditionalGeneration.from_pretrained(tiny_model).eval()
    return Glm4vAdapter(model, tiny_model, torch.float32, torch.device("cpu"))


R = TypeVar("R", bound=Runner)


class GpuOnCpu(str):
    """A device that torch takes as the CPU and the runner as a GPU."""

    type = "cuda"


@dataclass
class EmulatedGraph:
    """Computes the step again, into the tensor of its first result."""

    step: Callable[[], torch.Tensor]
    result: torch.Tensor
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.step())


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[EmulatedGraph]:
    """The graphs that were captured; torch's functions for a GPU do nothing."""
    every: list[EmulatedGraph] = []

    def capture(step: Callable[[], torch.Tensor], pool: Any) -> tuple[EmulatedGraph, torch.Tensor]:
        graph = EmulatedGraph(step, step().clone())
        every.append(graph)
        return graph, graph.result

    for module in (graphs, chunk_graphs):
        monkeypatch.setattr(module, "capture", capture)
    monkeypatch.setattr(Trunk, "captures_chunks", lambda trunk, cache: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    return every


def as_on_gpu(runner: R) -> R:
    runner.device = GpuOnCpu("cpu")  # type: ignore[assignment]
    return runner


def on_gpu(paged: Paged) -> PagedRunner:
    runner: PagedRunner = paged.loop._model  # type: ignore[assignment]
    return as_on_gpu(runner)


def test_steps_by_graphs_give_the_answers_of_launched_steps(
    adapter: Glm4vAdapter, captured: list[EmulatedGraph]
) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=12, temperature=0.0))
    expected = Paged(adapter).answers(prompts)
    paged = Paged(adapter)
    on_gpu(paged).capture_graphs()
    answers = paged.answers(prompts)
    assert answers == expected
    later = [follow_up(prompt, f"{prompt.id}/2", answer) for prompt, answer in zip(prompts, answers, strict=True)]
    assert paged.answers(later) == Paged(adapter).answers(later)
    assert (
        sum(graph.replays > 0 for graph in captured) >= 6
    )  # of decode steps and of steps with chunks, in several sizes


def test_the_warm_up_of_a_gpu_changes_no_answer(adapter: Glm4vAdapter, captured: list[EmulatedGraph]) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=6, temperature=0.0))[:8]
    expected = Paged(adapter).answers(prompts)
    paged = Paged(adapter)
    runner = on_gpu(paged)
    runner.run_all_kernels()
    runner.capture_graphs()
    runner.warm_up(step_tokens=256)
    assert not runner._cache.table.any()
    assert paged.answers(prompts) == expected


def test_steps_of_glm_4v_9b_by_graphs_give_the_answers_of_launched_steps(
    tmp_path: Path, captured: list[EmulatedGraph]
) -> None:
    folder = write_folder(tmp_path)
    adapter = load_model(folder, ModelSettings(path=str(folder), device="cpu", dtype="float32"))
    prompts = [one for one, _ in questions(SMALL, max_tokens=10, ignore_eos=True)]
    expected = Paged(adapter, context_tokens=256).answers(prompts)
    paged = Paged(adapter, context_tokens=256)
    runner = on_gpu(paged)
    runner.capture_graphs()
    runner.warm_up(step_tokens=64)
    assert paged.answers(prompts) == expected
    assert any(graph.replays for graph in captured)


def test_steps_over_slots_by_graphs_give_the_answers_of_launched_steps(
    adapter: Glm4vAdapter, captured: list[EmulatedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=12, temperature=0.0))
    expected = test_slot_runner.answers(adapter, prompts)

    def with_graphs(*of_runner: Any) -> SlotRunner:
        runner = as_on_gpu(SlotRunner(*of_runner))
        runner.capture_graphs()
        runner.device = adapter.device
        return runner

    monkeypatch.setattr(test_slot_runner, "SlotRunner", with_graphs)
    assert test_slot_runner.answers(adapter, prompts) == expected
    assert any(graph.replays for graph in captured)
