"""Over pages every prompt gets the answer that it gets over slots: together, in pieces, with a shared prefix."""

import dataclasses
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Glm4vForConditionalGeneration

from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine import replica
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.families.glm4v_9b import Glm4v9bAdapter
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.paged_runner import PagedRunner
from serve_app.engine.model.pages import PAGE_TOKENS, PagePool, pages_for
from serve_app.engine.model.trunk import Trunk
from serve_app.engine.model.weights import load_model
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.scheduler import Scheduler
from serve_app.metrics import PREFIX_TOKENS
from serve_app.settings import ModelSettings
from tests.engine.model import test_slot_runner
from tests.engine.model.original_glm4v_9b import SMALL, write_folder
from tests.engine.model.test_glm4v_9b import questions
from tests.engine.model.test_slot_runner import mixed_prompts
from tests.fakes import FakeMeter


@pytest.fixture(scope="module")
def adapter(tiny_model: Path) -> Glm4vAdapter:
    model = Glm4vForConditionalGeneration.from_pretrained(tiny_model).eval()
    return Glm4vAdapter(model, tiny_model, torch.float32, torch.device("cpu"))


class Paged:
    """A loop over pages that answers prompts and remembers how much of each it computed."""

    def __init__(
        self,
        adapter: ModelAdapter,
        slots: int = 8,
        prefill_tokens: int = 64,
        context_tokens: int = 1024,
        pages: int = 0,
    ) -> None:
        pages = pages or slots * pages_for(context_tokens) + 1
        self.pool = PagePool(pages)
        self.meter = FakeMeter()
        self.scheduler = Scheduler(slots, prefill_tokens, 100, self.pool)
        runner = PagedRunner(adapter, Trunk(adapter.text_layers, adapter.device), slots, pages, context_tokens)
        vocabulary = Vocabulary([b"x"] * adapter.vocab_size)
        self.loop = EngineLoop(runner, vocabulary, self.scheduler, FeatureCache(2**20), self.meter)
        self.reused: list[int] = []

    def answers(self, prompts: list[Prompt]) -> list[list[int]]:
        for one in prompts:
            self.loop.submit(self.loop.admission.admit(one, lambda event: None))
        sequences = [one for one in self.loop._inbox if not isinstance(one, str)]
        admit = self.scheduler.admit

        def recorded() -> list[object]:
            admitted = admit()
            self.reused += [one.prefilled for one in admitted]
            return admitted  # type: ignore[return-value]

        self.scheduler.admit = recorded  # type: ignore[method-assign, assignment]
        while self.loop.step():
            pass
        self.scheduler.admit = admit  # type: ignore[method-assign]
        assert self.pool.used == 0
        return [one.generated for one in sequences]


def test_a_request_takes_its_pages_on_a_gpu_and_no_device_memory_on_a_cpu(adapter: Glm4vAdapter) -> None:
    (prompt,) = mixed_prompts(Sampling(max_tokens=20, temperature=0.0))[:1]
    runner = PagedRunner(adapter, Trunk(adapter.text_layers, adapter.device), 1, 9, 512)
    paged = Paged(adapter)
    sequence = paged.loop.admission.admit(prompt, lambda event: None)
    sequence.pages = [1, 2, 3]
    assert runner.cache_bytes(sequence) == 3 * 64 * adapter.cache_shape.bytes_per_token
    assert runner.device_bytes(sequence, 64) == 0


def test_computing_with_all_kernels_before_the_first_request_changes_no_answer(adapter: Glm4vAdapter) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=6, temperature=0.0))[:8]
    expected, paged = Paged(adapter).answers(prompts), Paged(adapter)
    runner: PagedRunner = paged.loop._model  # type: ignore[assignment]
    runner.run_all_kernels()
    assert not runner._cache.table.any()
    assert paged.answers(prompts) == expected


def test_kernels_that_can_not_be_compiled_ahead_are_left_until_they_are_needed(
    adapter: Glm4vAdapter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(compute: object, threads: int) -> None:
        raise RuntimeError("ptxas is missing")

    runner: PagedRunner = Paged(adapter).loop._model  # type: ignore[assignment]
    monkeypatch.setattr("serve_app.engine.model.kernels.launch.compile_ahead", fail)
    runner.compile_kernels()  # on a CPU there are none
    assert not caplog.records
    runner.device = torch.device("cuda")
    runner.compile_kernels()
    assert "compiled one by one" in caplog.text
    assert "ptxas is missing" in caplog.text


def test_on_a_gpu_the_memory_of_a_request_is_counted_for_each_family(adapter: Glm4vAdapter, tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    for model in (adapter, load_model(folder, ModelSettings(path=str(folder), device="cpu"))):
        loop = Paged(model, context_tokens=64).loop
        runner: PagedRunner = loop._model  # type: ignore[assignment]
        runner.device = torch.device("cuda")  # the bug: `config` was read from a module that has none
        sequence = loop.admission.admit(model.probe(), lambda event: None)
        sequence.pages = [1, 2]
        pages = 2 * PAGE_TOKENS * model.cache_shape.bytes_per_token
        assert runner.device_bytes(sequence, 64) > pages + sequence.prompt.image_tokens * 4


def test_a_row_that_ended_on_its_last_page_writes_to_the_page_of_no_sequence(
    adapter: Glm4vAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    """The step of a row is launched before its last token is read, with the chunks of other prompts."""
    rng = np.random.default_rng(2)
    ids = [rng.integers(0, 90, length).astype(np.int32) for length in (60, 300)]
    lengths = Sampling(max_tokens=4, temperature=0.0, ignore_eos=True)  # 60 and 4 are one page
    prompts = [Prompt(f"p{n}", one, (), lengths, 60.0) for n, one in enumerate(ids)]
    assert [len(answer) for answer in Paged(adapter, prefill_tokens=30).answers(prompts)] == [4, 4]
    assert not caplog.records


@pytest.mark.parametrize("prefill_tokens", [5, 64, 1000])
def test_answers_are_those_over_slots(adapter: Glm4vAdapter, prefill_tokens: int) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=20, temperature=0.0))
    expected = test_slot_runner.answers(adapter, prompts)
    assert Paged(adapter, prefill_tokens=prefill_tokens).answers(prompts) == expected


def test_seeded_answers_with_penalties_are_those_over_slots(adapter: Glm4vAdapter) -> None:
    rule = Sampling(max_tokens=20, temperature=0.9, top_p=0.95, seed=11, repetition_penalty=1.2, frequency_penalty=0.3)
    prompts = mixed_prompts(rule)
    assert Paged(adapter).answers(prompts) == test_slot_runner.answers(adapter, prompts)


def test_answers_of_glm_4v_9b_are_those_over_slots(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    adapter = load_model(folder, ModelSettings(path=str(folder), device="cpu"))
    assert isinstance(adapter, Glm4v9bAdapter)
    asked = [one for one, _ in questions(SMALL, max_tokens=10, ignore_eos=True)]
    expected = test_slot_runner.answers(adapter, asked, context_tokens=64)
    assert Paged(adapter, context_tokens=64).answers(asked) == expected


def test_with_few_pages_requests_wait_and_all_are_answered(adapter: Glm4vAdapter) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=20, temperature=0.0))
    expected = test_slot_runner.answers(adapter, prompts)
    most = max(pages_for(len(one.token_ids) + 20) for one in prompts)
    assert Paged(adapter, pages=most + 2).answers(prompts) == expected


def follow_up(one: Prompt, name: str, text: list[int]) -> Prompt:
    return dataclasses.replace(one, id=name, token_ids=np.concatenate([one.token_ids, np.array(text, dtype=np.int32)]))


def test_a_follow_up_reuses_the_pages_of_what_it_repeats_and_gets_the_same_answer(adapter: Glm4vAdapter) -> None:
    prompts = [one for one in mixed_prompts(Sampling(max_tokens=12, temperature=0.0)) if len(one.token_ids) > 70]
    questions = [follow_up(one, f"{one.id}/{n}", [60 + n] * (n + 1)) for n in range(3) for one in prompts]
    paged = Paged(adapter)
    got = [paged.answers([question])[0] for question in questions]
    assert got == [Paged(adapter).answers([question])[0] for question in questions]
    first, later = paged.reused[: len(prompts)], paged.reused[len(prompts) :]
    assert set(first) == {0}
    assert later == [len(one.token_ids) // PAGE_TOKENS * PAGE_TOKENS for one in prompts] * 2


def test_another_tenant_shares_no_page(adapter: Glm4vAdapter) -> None:
    (one, *_) = [one for one in mixed_prompts(Sampling(max_tokens=4)) if len(one.token_ids) > 70]
    paged = Paged(adapter)
    for index, tenant in enumerate(("a", "b", "a")):
        paged.answers([dataclasses.replace(one, id=f"{index}", tenant=tenant)])
    assert paged.reused[:2] == [0, 0]
    assert paged.reused[2] > 0
    assert paged.meter.counts[PREFIX_TOKENS.name,] == paged.reused[2], "prompt tokens from pages are counted"


def test_the_probe_of_a_sound_model_gives_finite_numbers(adapter: Glm4vAdapter) -> None:
    PagedRunner(adapter, Trunk(adapter.text_layers, adapter.device), 1, 3, 128).check_numbers()


def test_kernels_compiled_ahead_include_those_that_encode_the_pictures_of_requests(
    adapter: Glm4vAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Picture] = []
    encode_slices = adapter.encode_slices

    def recorded(pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        encoded.extend(pictures)
        return encode_slices(pictures)

    monkeypatch.setattr(adapter, "encode_slices", recorded)
    PagedRunner(adapter, Trunk(adapter.text_layers, adapter.device), 1, 3, 128).run_all_kernels()
    assert [picture.digest for picture in encoded] == [picture.digest for picture in adapter.probe().pictures]


def test_pages_are_planned_after_the_weights_were_joined(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Glm4vForConditionalGeneration.from_pretrained(tiny_model).eval()
    adapter = Glm4vAdapter(model, tiny_model, torch.float32, torch.device("cpu"))
    attention = model.model.language_model.layers[0].self_attn

    def plan_pages(*_: object) -> int:
        parts = [part.weight.untyped_storage().data_ptr() for part in (attention.q_proj, attention.k_proj)]
        assert parts[0] == parts[1]
        return 9

    monkeypatch.setattr(replica.paged_runner, "supports", lambda model: True)
    monkeypatch.setattr(replica, "plan_pages", plan_pages)
    _, runner, pool = replica.build_runner(adapter, 1, 512, 0)
    assert isinstance(runner, PagedRunner)
    assert pool is not None
    assert pool.pages == 8
