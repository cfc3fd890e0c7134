"""GLM-4V-9B: the port gives what the original gives, alone or in a batch, whole or in chunks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.model.families.glm4v_9b import Glm4v9bAdapter
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.weights import load_model
from serve_app.errors import ContextTooLong, EngineFailed
from serve_app.settings import ModelSettings
from tests.engine.model.original_glm4v_9b import (
    BOI,
    EOI,
    PAD,
    SMALL,
    Original,
    normalized,
    prompt,
    write_folder,
)
from tests.engine.model.test_slot_runner import answers

PATCHES, TOKENS = 4, 6  # of a picture in the small model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Glm4v9bAdapter:
    return read(folder)


def read(folder: Path, **settings: Any) -> Glm4v9bAdapter:
    model = load_model(folder, ModelSettings(path=str(folder), device="cpu", **settings))
    assert isinstance(model, Glm4v9bAdapter)
    return model


def last_logits(adapter: Glm4v9bAdapter, one: Prompt, *cuts: int) -> torch.Tensor:
    """Logits (vocab,) after a prompt that is taken in as chunks that end at the cuts."""
    runner = SlotRunner(adapter, 1, 64)
    positions, _ = runner.positions(one)
    features = torch.cat([runner.encode(picture) for picture in one.pictures]) if one.pictures else None
    ends = [*cuts, len(one.token_ids)]
    for start, stop in zip([0, *cuts], ends, strict=True):
        hidden = runner.hidden(one, features, positions, 0, start, stop)
    with torch.inference_mode():
        return adapter.head(hidden[-1:])[0]


def questions(config: dict[str, Any], count: int = 8, **sampling: Any) -> list[tuple[Prompt, list[int]]]:
    """Prompts in turn with and without a picture, each with its ids as the original takes them."""
    rng = np.random.default_rng(5)
    return [
        prompt(f"p{index}", rng, config, int(rng.integers(2, 20)), picture=index % 2 == 0, **sampling)
        for index in range(count)
    ]


def test_a_mixed_batch_gives_what_each_prompt_gives_alone_and_what_the_original_gives(
    folder: Path, adapter: Glm4v9bAdapter
) -> None:
    asked = questions(SMALL, max_tokens=10, ignore_eos=True)
    together = answers(adapter, [one for one, _ in asked], context_tokens=64)
    assert len({tuple(answer) for answer in together}) == len(asked)
    assert together == [answers(adapter, [one], context_tokens=64)[0] for one, _ in asked]
    original = Original(folder)
    for answer, (one, ids) in zip(together, asked, strict=True):
        features = original.features(normalized(one.pictures[0].pixels))[0] if one.pictures else None
        assert answer == original.greedy(ids, features, 10)[0]


def test_a_picture_is_normalised_and_encoded_as_the_original_does_it(folder: Path, adapter: Glm4v9bAdapter) -> None:
    (one, _), *_ = questions(SMALL)
    with torch.inference_mode():
        features = adapter.encode(one.pictures[0])
    expected = Original(folder).features(normalized(one.pictures[0].pixels))[0]
    assert features.shape == (TOKENS, 64)
    assert torch.allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize("cuts", [(1,), (3,), (4, 6), (2, 3, 4, 5, 6, 7, 8)])
def test_a_chunk_may_end_within_the_picture(adapter: Glm4v9bAdapter, cuts: tuple[int, ...]) -> None:
    (one, _), *_ = questions(SMALL)
    assert torch.allclose(last_logits(adapter, one, *cuts), last_logits(adapter, one), atol=1e-4)


@pytest.mark.parametrize("prefill_tokens", [1, 3, 7])
def test_the_size_of_prefill_chunks_does_not_change_the_answer(adapter: Glm4v9bAdapter, prefill_tokens: int) -> None:
    asked = [one for one, _ in questions(SMALL, count=4)]
    whole = answers(adapter, asked, context_tokens=64)
    assert answers(adapter, asked, prefill_tokens=prefill_tokens, context_tokens=64) == whole


def test_all_patches_of_a_picture_share_one_position(adapter: Glm4v9bAdapter) -> None:
    """As in vLLM's pull request 5358: 0, 1, …, boi, the position after it for every patch, then the end mark."""
    one = marked([20, 21, 22, 23, BOI, *[PAD] * PATCHES, EOI, 30, 31])
    positions, delta = adapter.positions(one)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5, 5, 5, 5, 6, 7, 8]]
    assert len(one.token_ids) + delta == 9  # the first generated token goes on


@given(before=st.integers(0, 20), after=st.integers(0, 20))
def test_positions_are_those_of_the_prompt_with_one_placeholder(
    adapter: Glm4v9bAdapter, before: int, after: int
) -> None:
    one = marked([*[20] * before, BOI, *[PAD] * PATCHES, EOI, *[30] * after])
    positions, delta = adapter.positions(one)
    places = adapter.image_mask(one)
    assert sorted(set(positions[0].tolist())) == list(range(before + 3 + after))
    assert np.flatnonzero(places).tolist() == list(range(before, before + TOKENS))
    assert delta == 1 - PATCHES


def marked(ids: list[int], pictures: int = 1, max_tokens: int = 4) -> Prompt:
    shown = Picture(np.zeros((56, 56, 3), dtype=np.uint8), "black", TOKENS, (56, 56))
    return Prompt("marked", np.array(ids, dtype=np.int32), (shown,) * pictures, Sampling(max_tokens=max_tokens), 60.0)


@pytest.mark.parametrize(
    ("ids", "pictures", "complaint"),
    [
        ([BOI, *[PAD] * PATCHES, EOI, BOI, *[PAD] * PATCHES, EOI], 2, "one picture a conversation"),
        ([BOI, PAD, EOI], 1, r"from \[0\] to \[2\]"),
        ([BOI, *[PAD] * PATCHES, 30], 1, r"from \[0\] to \[\]"),
        ([30, 31], 1, r"from \[\] to \[\]"),
    ],
)
def test_a_prompt_that_does_not_mark_its_one_picture_fails(
    adapter: Glm4v9bAdapter, ids: list[int], pictures: int, complaint: str
) -> None:
    with pytest.raises(EngineFailed, match=complaint):
        adapter.positions(marked(ids, pictures))


def test_a_picture_of_another_size_fails(adapter: Glm4v9bAdapter) -> None:
    with pytest.raises(EngineFailed, match="56x56"):
        adapter.encode(Picture(np.zeros((56, 70, 3), dtype=np.uint8), "wide", TOKENS, (70, 56)))


def test_a_picture_leaves_more_of_the_context_to_text_than_its_tokens(adapter: Glm4v9bAdapter) -> None:
    assert adapter.max_context_tokens == 128 + PATCHES - 1
    picture = [BOI, *[PAD] * PATCHES, EOI]
    adapter.positions(marked([*picture, *[30] * 121], max_tokens=4))
    for ids, pictures in (([*picture, *[30] * 122], 1), ([30] * 125, 0)):
        with pytest.raises(ContextTooLong, match="the model has 128"):
            adapter.positions(marked(ids, pictures, max_tokens=4))
