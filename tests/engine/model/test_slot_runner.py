"""The one numeric truth: a mixed batch gives, token for token, what each prompt gives alone and `generate()` gives."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Glm4vForConditionalGeneration

from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.families.glm4v import Glm4vAdapter, replace_convolution_by_matmul
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.paged_runner import PagedRunner
from serve_app.engine.model.pages import PagePool
from serve_app.engine.model.runner import Runner
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.trunk import Trunk
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.scheduler import Scheduler
from serve_app.metrics import SilentMeter
from tests.engine.conftest import IMAGE, VOCAB, prompt

NEW_TOKENS = 20


@pytest.fixture(scope="module")
def adapter(tiny_model: Path) -> Glm4vAdapter:
    model = Glm4vForConditionalGeneration.from_pretrained(tiny_model).eval()
    return Glm4vAdapter(model, tiny_model, torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Glm4vForConditionalGeneration:
    return Glm4vForConditionalGeneration.from_pretrained(tiny_model).eval()


def answers(
    adapter: ModelAdapter, prompts: list[Prompt], slots: int = 8, prefill_tokens: int = 64, context_tokens: int = 1024
) -> list[list[int]]:
    loop = EngineLoop(
        SlotRunner(adapter, slots, context_tokens),
        Vocabulary([b"x"] * adapter.vocab_size),
        Scheduler(slots, prefill_tokens, len(prompts)),
        FeatureCache(2**20),
        SilentMeter(),
    )
    for one in prompts:
        loop.submit(loop.admission.admit(one, lambda event: None))
    sequences = list(loop._inbox)
    while loop.step():
        pass
    return [sequence.generated for sequence in sequences if not isinstance(sequence, str)]


def generated(reference: Glm4vForConditionalGeneration, adapter: Glm4vAdapter, one: Prompt) -> list[int]:
    ids = torch.from_numpy(one.token_ids[None].astype(np.int64))
    pictures = {}
    if one.pictures:
        grids = [[1, p.pixels.shape[0] // 14, p.pixels.shape[1] // 14] for p in one.pictures]
        pictures = {
            "pixel_values": torch.cat([adapter._patchify(torch.from_numpy(p.pixels)) for p in one.pictures]),
            "image_grid_thw": torch.tensor(grids),
            "mm_token_type_ids": (ids == IMAGE).int(),
        }
    out = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        **pictures,
    )
    return out[0, ids.shape[1] :].tolist()  # type: ignore[no-any-return]


def mixed_prompts(sampling: Sampling, count: int = 12) -> list[Prompt]:
    rng = np.random.default_rng(7)
    return [prompt(f"p{i}", rng, sampling, pictures=i % 3, text=int(rng.integers(1, 40))) for i in range(count)]


def test_a_mixed_batch_gives_what_each_prompt_gives_alone_and_what_generate_gives(
    adapter: Glm4vAdapter, reference: Glm4vForConditionalGeneration
) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=NEW_TOKENS, temperature=0.0))
    together = answers(adapter, prompts)
    assert len({tuple(answer) for answer in together}) == len(prompts)
    assert together == [answers(adapter, [one])[0] for one in prompts]
    assert together == [generated(reference, adapter, one) for one in prompts]


def test_seeded_answers_are_the_same_alone_and_in_the_batch(adapter: Glm4vAdapter) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=NEW_TOKENS, temperature=0.9, top_p=0.95, seed=11))
    assert answers(adapter, prompts) == [answers(adapter, [one])[0] for one in prompts]


@pytest.mark.parametrize("prefill_tokens", [5, 17, 1000])
def test_the_size_of_prefill_chunks_does_not_change_the_answer(adapter: Glm4vAdapter, prefill_tokens: int) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=8, temperature=0.0), count=6)
    assert answers(adapter, prompts, prefill_tokens=prefill_tokens) == answers(adapter, prompts)


def test_a_reused_slot_knows_nothing_of_its_former_owner(adapter: Glm4vAdapter) -> None:
    prompts = mixed_prompts(Sampling(max_tokens=8, temperature=0.0), count=6)
    assert answers(adapter, prompts, slots=1) == answers(adapter, prompts)


def answers_after_one_with_nan(runner: Runner, pool: PagePool | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How four answers in one slot end: one of text, one whose picture's features are NaN, and both without NaN."""
    rng = np.random.default_rng(3)
    bad = prompt("bad", rng, Sampling(max_tokens=5), pictures=1, text=200)
    good = prompt("good", rng, Sampling(max_tokens=5), pictures=0, text=6)
    encode = runner.encode_slices

    def encode_nan(pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        features = yield from encode(pictures)
        return [one * torch.nan for one in features]

    loop = EngineLoop(runner, Vocabulary([b"x"] * VOCAB), Scheduler(1, 64, 9, pool), FeatureCache(2**20), SilentMeter())
    ends = []
    for one, encoder in ((good, encode), (bad, encode_nan), (good, encode), (bad, encode)):
        monkeypatch.setattr(runner, "encode_slices", encoder)
        loop._features.clear()
        events: list[Any] = []
        loop.submit(loop.admission.admit(one, events.append))
        while loop.step():
            pass
        ends.append(type(events[-1]).__name__)
    return ends


def test_after_a_sequence_with_nan_its_slot_and_pages_are_sound(
    adapter: Glm4vAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is not looked at counts with weight 0, and 0 times NaN is NaN: each later answer failed."""
    right = ["Finished", "EngineFailed", "Finished", "Finished"]
    assert answers_after_one_with_nan(SlotRunner(adapter, 1, 1024), None, monkeypatch) == right
    paged = PagedRunner(adapter, Trunk(adapter.text_layers, adapter.device), 1, 17, 1024)
    assert answers_after_one_with_nan(paged, PagePool(17), monkeypatch) == right
    assert all(block.isfinite().all() for block in (*paged._cache.keys, *paged._cache.values))


def test_positions_are_those_of_transformers(adapter: Glm4vAdapter, reference: Glm4vForConditionalGeneration) -> None:
    for one in mixed_prompts(Sampling(max_tokens=1)):
        ids = torch.from_numpy(one.token_ids[None].astype(np.int64))
        grids = [[1, p.pixels.shape[0] // 14, p.pixels.shape[1] // 14] for p in one.pictures]
        expected, delta = reference.model.get_rope_index(
            ids,
            mm_token_type_ids=(ids == IMAGE).int(),
            image_grid_thw=torch.tensor(grids) if grids else None,
        )
        positions, own_delta = adapter.positions(one)
        assert positions.tolist() == expected[:, 0].tolist()
        assert own_delta == int(delta)


def test_the_probe_of_a_sound_model_gives_finite_numbers(adapter: Glm4vAdapter) -> None:
    SlotRunner(adapter, 1, 64).check_numbers()


def test_the_modules_shared_rope_deltas_are_never_touched(adapter: Glm4vAdapter) -> None:
    answers(adapter, mixed_prompts(Sampling(max_tokens=4, temperature=0.0), count=4))
    assert adapter.model.model.rope_deltas is None


@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.Conv3d])
def test_a_convolution_over_its_whole_input_is_a_matrix_product(
    kind: type[torch.nn.Conv2d] | type[torch.nn.Conv3d],
) -> None:
    dimensions = 2 if kind is torch.nn.Conv2d else 3
    convolution = kind(5, 7, kernel_size=2, stride=2)
    patches = torch.randn(9, 5, *(2,) * dimensions)
    expected = convolution(patches)
    replace_convolution_by_matmul(convolution)
    assert torch.allclose(convolution(patches), expected, atol=1e-6)
