"""Sampling: each row by its own rules, the same alone and in company, and truly at random."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from serve_app.contracts import Prompt, Sampling
from serve_app.engine.sampling import Sampler, _gumbel, _key, _restrict
from serve_app.engine.sequence import Sequence
from serve_app.engine.text import TextStream, Vocabulary

VOCAB = 50


def sequence(slot: int, rule: Sampling, seed: int = 0, generated: tuple[int, ...] = (), ids: tuple[int, ...] = (1,)):  # type: ignore[no-untyped-def]
    one = Sequence(
        prompt=Prompt(str(slot), np.array(ids, dtype=np.int32), (), rule, 60.0),
        sink=lambda event: None,
        text=TextStream(Vocabulary([b""] * VOCAB)),
        seed=seed,
        arrived=0.0,
        positions=np.zeros((3, 1), dtype=np.int64),
        position_delta=0,
        slot=slot,
    )
    one.generated.extend(generated)
    return one


def sampler(slots: int = 8) -> Sampler:
    return Sampler(slots, VOCAB, torch.device("cpu"))


rules = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.1, 0.7, 1.0]),
    top_k=st.sampled_from([0, 1, 5]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(rules, min_size=1, max_size=8), st.integers(0, 2**31))
def test_a_row_draws_the_same_alone_and_in_company(mixed: list[Sampling], seed: int) -> None:
    logits = torch.randn(len(mixed), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    together = sampler()
    rows = [sequence(slot, rule, seed + slot) for slot, rule in enumerate(mixed)]
    for row in rows:
        together.begin(row)
    drawn = together.draw(logits, rows)
    for slot, rule in enumerate(mixed):
        alone = sampler()
        row = sequence(0, rule, seed + slot)
        alone.begin(row)
        assert alone.draw(logits[slot : slot + 1], [row]) == [drawn[slot]]


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(3, VOCAB)
    rows = [sequence(slot, Sampling(temperature=0.0)) for slot in range(3)]
    assert sampler().draw(logits, rows) == logits.argmax(-1).tolist()


def test_draws_follow_the_distribution() -> None:
    """20,000 draws from 4 tokens; a wrong distribution by 0.02 would be off by more than 5 sigma."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = torch.full((VOCAB,), -torch.inf)
    logits[:4] = probabilities.log()
    keys = torch.tensor([_key(seed, 3) for seed in range(20_000)])
    drawn = (logits[None] + _gumbel(keys, VOCAB)).argmax(-1)
    frequencies = torch.bincount(drawn, minlength=4)[:4] / len(keys)
    assert torch.allclose(frequencies, probabilities, atol=0.02)


def test_neighbouring_steps_of_a_seed_are_independent() -> None:
    first, second = (_gumbel(torch.tensor([_key(seed, step) for seed in range(5000)]), 1)[:, 0] for step in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.06


def test_gumbel_noise_is_finite_and_has_the_right_mean() -> None:
    noise = _gumbel(torch.tensor([_key(seed, 0) for seed in range(200)]), 1000)
    assert torch.isfinite(noise).all()
    assert math.isclose(float(noise.mean()), 0.5772, abs_tol=0.02)  # Euler's constant


@pytest.mark.parametrize("top_k", [1, 3, 49])
def test_top_k_keeps_what_transformers_keeps(top_k: int) -> None:
    logits = torch.randn(VOCAB)
    expected = TopKLogitsWarper(top_k)(None, logits[None].clone())[0]
    _restrict(logits, Sampling(top_k=top_k))
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_keeps_what_transformers_keeps(top_p: float) -> None:
    logits = torch.randn(VOCAB) * 3
    expected = TopPLogitsWarper(top_p)(None, logits[None].clone())[0]
    _restrict(logits, Sampling(top_p=top_p))
    assert torch.equal(logits, expected)


def test_the_repetition_penalty_counts_prompt_and_answer_as_transformers_does() -> None:
    logits = torch.randn(1, VOCAB)
    rule = Sampling(temperature=0.0, repetition_penalty=50.0)
    row = sequence(0, rule, ids=(3, 7))
    penalizing = sampler()
    penalizing.begin(row)
    first = penalizing.draw(logits, [row])[0]
    assert first is not None
    expected = RepetitionPenaltyLogitsProcessor(50.0)(torch.tensor([[3, 7]]), logits.clone())
    assert first == int(expected.argmax())
    row.generated.append(first)
    expected = RepetitionPenaltyLogitsProcessor(50.0)(torch.tensor([[3, 7, first]]), logits.clone())
    assert penalizing.draw(logits, [row]) == [int(expected.argmax())]


def test_presence_is_charged_once_and_frequency_every_time() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 5], logits[0, 9] = 2.0, 1.0
    presence = sequence(0, Sampling(temperature=0.0, presence_penalty=0.6))
    frequency = sequence(1, Sampling(temperature=0.0, frequency_penalty=0.6))
    both = sampler()
    drawn: list[list[int | None]] = []
    for row in (presence, frequency):
        both.begin(row)
    for _ in range(4):
        drawn.append(both.draw(logits.repeat(2, 1), [presence, frequency]))
    assert [step[0] for step in drawn] == [5, 5, 5, 5]
    assert [step[1] for step in drawn] == [5, 5, 9, 5]


def test_penalties_of_a_slots_former_owner_do_not_reach_the_next() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 5], logits[0, 9] = 2.0, 1.0
    rule = Sampling(temperature=0.0, presence_penalty=1.9)
    shared = sampler(slots=1)
    for _ in range(2):
        row = sequence(0, rule)
        shared.begin(row)
        assert [shared.draw(logits, [row]) for _ in range(2)] == [[5], [9]]


def test_a_row_that_is_not_finite_draws_nothing_and_others_are_untouched() -> None:
    logits = torch.randn(3, VOCAB)
    logits[1, 4] = torch.nan
    rows = [sequence(slot, Sampling(temperature=temperature)) for slot, temperature in enumerate((0.0, 1.0, 1.0))]
    drawn = sampler().draw(logits, rows)
    assert drawn[1] is None
    assert drawn[0] == int(logits[0].argmax())
    assert drawn[2] is not None
