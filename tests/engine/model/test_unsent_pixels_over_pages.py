"""Prompts without pixels over pages: the same answers as with pixels, or the pixels are asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from transformers import Glm4vForConditionalGeneration

from serve_app.contracts import Finished, Picture, Prompt, Sampling, UnsentPixels
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.pages import PAGE_TOKENS
from serve_app.replies import PixelsNeeded
from tests.engine.conftest import IMAGE, IMAGE_END, IMAGE_START, picture
from tests.engine.model.test_paged_runner import Paged

GREEDY = Sampling(max_tokens=8, temperature=0.0)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path) -> Glm4vAdapter:
    model = Glm4vForConditionalGeneration.from_pretrained(tiny_model).eval()
    return Glm4vAdapter(model, tiny_model, torch.float32, torch.device("cpu"))


def shown(count: int) -> list[Picture]:
    """Pictures of about one page of tokens, and smaller ones."""
    rng = np.random.default_rng(3)
    return [
        dataclasses.replace(picture(rng, 28 * (8 - 4 * (n % 2)), 28 * 8), digest=f"digest{n}") for n in range(count)
    ]


def asking(name: str, pictures: list[Picture], text: list[int], tenant: str = "t") -> Prompt:
    ids: list[int] = [7]
    for one in pictures:
        ids += [IMAGE_START, *[IMAGE] * one.tokens, IMAGE_END, 33]
    return Prompt(name, np.array([*ids, *text], dtype=np.int32), tuple(pictures), GREEDY, 600.0, tenant=tenant)


def without_pixels(one: Prompt, which: list[bool] | None = None) -> Prompt:
    leave_out = which or [True] * len(one.pictures)
    pictures = tuple(
        dataclasses.replace(each, pixels=UnsentPixels(each.pixels.shape)) if left_out else each
        for each, left_out in zip(one.pictures, leave_out, strict=True)
    )
    return dataclasses.replace(one, pictures=pictures)


def ask(paged: Paged, one: Prompt) -> tuple[list[int], list[object]]:
    """The tokens of an answer, and its events."""
    events: list[object] = []
    sequence = paged.loop.admission.admit(one, events.append)
    paged.loop.submit(sequence)
    while paged.loop.step():
        pass
    return sequence.generated, events


def test_a_follow_up_is_answered_from_pages_where_the_features_are_gone(adapter: Glm4vAdapter) -> None:
    (one,) = shown(1)
    first, second = asking("1", [one], list(range(80))), asking("2", [one], [*range(80), 5])
    expected, _ = ask(Paged(adapter), second)
    paged = Paged(adapter)
    ask(paged, first)
    paged.loop._features.clear()
    generated, events = ask(paged, without_pixels(second))
    assert generated == expected
    assert isinstance(events[-1], Finished)


def test_a_picture_half_in_pages_needs_its_features(adapter: Glm4vAdapter) -> None:
    (one,) = shown(1)  # 64 tokens after two others, so its last two are in the second page
    first, second = asking("1", [one], [1] * 10), asking("2", [one], [2] * 60)
    expected, _ = ask(Paged(adapter), second)
    paged = Paged(adapter)
    ask(paged, first)
    generated, _ = ask(paged, without_pixels(second))
    assert generated == expected
    paged = Paged(adapter)
    ask(paged, first)
    paged.loop._features.clear()
    _, events = ask(paged, without_pixels(second))
    assert events == [PixelsNeeded((one.digest,))]


def test_a_new_picture_after_one_that_pages_hold_is_the_only_one_encoded(adapter: Glm4vAdapter) -> None:
    old, new = shown(2)
    text = list(range(70))
    first = asking("1", [old], text)
    ids = np.array([IMAGE_START, *[IMAGE] * new.tokens, IMAGE_END, 9], dtype=np.int32)
    second = dataclasses.replace(first, id="2", token_ids=np.concatenate([first.token_ids, ids]), pictures=(old, new))
    expected, _ = ask(Paged(adapter), second)
    paged = Paged(adapter)
    ask(paged, first)
    paged.loop._features.clear()
    generated, _ = ask(paged, without_pixels(second, [True, False]))
    assert generated == expected
    assert list(paged.loop._features._entries) == [new.digest]


def test_pages_of_another_tenant_stand_for_no_pixels(adapter: Glm4vAdapter) -> None:
    (one,) = shown(1)
    first, other = asking("1", [one], list(range(80))), asking("2", [one], list(range(80)), tenant="u")
    paged = Paged(adapter)
    ask(paged, first)
    paged.loop._features.clear()
    assert ask(paged, without_pixels(other))[1] == [PixelsNeeded((one.digest,))]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_answers_without_pixels_are_those_with_pixels_or_pixels_are_asked_for(
    adapter: Glm4vAdapter, data: st.DataObject
) -> None:
    """Conversations of two tenants about a few pictures, with few pages and a small cache of features."""
    known = shown(3)
    paged = Paged(adapter, pages=14)
    paged.loop._features._max_bytes = 64 * 128 * 4  # of one picture
    for number in range(data.draw(st.integers(2, 6))):
        chosen = [known[index] for index in data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=2))]
        text = [11] * data.draw(st.sampled_from([3, PAGE_TOKENS, 2 * PAGE_TOKENS]))
        one = asking(f"{number}", chosen, text, data.draw(st.sampled_from("tu")))
        which = data.draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
        expected, _ = ask(Paged(adapter), one)
        generated, events = ask(paged, without_pixels(one, which))
        if isinstance(events[0], PixelsNeeded):
            assert set(events[0].digests) <= {p.digest for p, left_out in zip(chosen, which, strict=True) if left_out}
            generated, events = ask(paged, one)
        assert generated == expected
        assert isinstance(events[-1], Finished)
        assert paged.pool.used == 0
