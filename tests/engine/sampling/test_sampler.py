"""Sampling: each row by its own rules, the same alone and in company, and truly at random."""

import math
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from serve_app.contracts import Sampling
from serve_app.engine.sampling.noise import gumbel, noise_key
from serve_app.engine.sampling.sampler import SampledToken, Sampler, filter_top, forbidden_tokens, unpacked
from serve_app.engine.sequence import Sample
from serve_app.errors import EngineFailed
from tests.engine.conftest import new_sequence, next_samples

VOCAB = 50


def sequence(slot: int, rule: Sampling, seed: int = 0, generated: tuple[int, ...] = (), ids: tuple[int, ...] = (1,)):  # type: ignore[no-untyped-def]
    one = new_sequence(str(slot), rule, ids, slot, seed)
    one.generated.extend(generated)
    return one


def sampler(slots: int = 8, stop_ids: frozenset[int] = frozenset()) -> Sampler:
    return Sampler(slots, VOCAB, torch.device("cpu"), stop_ids)


def ids(sampled: list[SampledToken | EngineFailed]) -> list[int | None]:
    return [one.token_id if isinstance(one, SampledToken) else None for one in sampled]


rules = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.1, 0.7, 1.0]),
    top_k=st.sampled_from([0, 1, 5]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    min_p=st.sampled_from([0.0, 0.0, 0.2]),
    min_tokens=st.sampled_from([0, 0, 2]),
    logit_bias=st.sampled_from([(), (), ((3, 4.0), (7, -9.0))]),
    logprobs=st.sampled_from([None, None, 2]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(rules, min_size=1, max_size=8), st.integers(0, 2**31))
def test_a_row_draws_the_same_alone_and_in_company(mixed: list[Sampling], seed: int) -> None:
    logits = torch.randn(len(mixed), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    together = sampler(stop_ids=frozenset([4, 9]))
    rows = [sequence(slot, rule, seed + slot) for slot, rule in enumerate(mixed)]
    for row in rows:
        together.prepare_row(row)
    sampled = together.sample(logits, next_samples(rows)).read()
    for slot, rule in enumerate(mixed):
        alone = sampler(stop_ids=frozenset([4, 9]))
        row = sequence(0, rule, seed + slot)
        alone.prepare_row(row)
        (one,) = alone.sample(logits[slot : slot + 1], next_samples([row])).read()
        assert isinstance(one, SampledToken)
        assert one == sampled[slot]


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(3, VOCAB)
    rows = [sequence(slot, Sampling(temperature=0.0)) for slot in range(3)]
    assert ids(sampler().sample(logits, next_samples(rows)).read()) == logits.argmax(-1).tolist()


def test_draws_follow_the_distribution() -> None:
    """20,000 draws from 4 tokens; a wrong distribution by 0.02 would be off by more than 5 sigma."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = torch.full((VOCAB,), -torch.inf)
    logits[:4] = probabilities.log()
    keys = torch.tensor([noise_key(seed, 3) for seed in range(20_000)])
    sampled = (logits[None] + gumbel(keys, VOCAB)).argmax(-1)
    frequencies = torch.bincount(sampled, minlength=4)[:4] / len(keys)
    assert torch.allclose(frequencies, probabilities, atol=0.02)


def test_neighbouring_steps_of_a_seed_are_independent() -> None:
    first, second = (gumbel(torch.tensor([noise_key(seed, step) for seed in range(5000)]), 1)[:, 0] for step in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.06


def testgumbel_noise_is_finite_and_has_the_right_mean() -> None:
    noise = gumbel(torch.tensor([noise_key(seed, 0) for seed in range(200)]), 1000)
    assert torch.isfinite(noise).all()
    assert math.isclose(float(noise.mean()), 0.5772, abs_tol=0.02)  # Euler's constant


@pytest.mark.parametrize("top_k", [1, 3, 49])
def test_top_k_keeps_what_transformers_keeps(top_k: int) -> None:
    logits = torch.randn(1, VOCAB)
    expected = TopKLogitsWarper(top_k)(None, logits.clone())
    filter_top(logits, [Sampling(top_k=top_k)])
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_keeps_what_transformers_keeps(top_p: float) -> None:
    logits = torch.randn(1, VOCAB) * 3
    expected = TopPLogitsWarper(top_p)(None, logits.clone())
    filter_top(logits, [Sampling(top_p=top_p)])
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("min_p", [0.01, 0.2, 0.9, 1.0])
def test_min_p_keeps_what_transformers_keeps(min_p: float) -> None:
    logits = torch.randn(1, VOCAB) * 3
    expected = MinPLogitsWarper(min_p)(None, logits.clone())
    filter_top(logits, [Sampling(min_p=min_p)])
    assert torch.equal(logits, expected)


def restricted_alone(logits: torch.Tensor, rule: Sampling) -> torch.Tensor:
    """One row (vocab,), one rule after the other, as plainly as it can be written."""
    logits = logits.clone()
    if 0 < rule.top_k < len(logits):
        logits[logits < logits.topk(rule.top_k).values[-1]] = -torch.inf
    if rule.top_p < 1:
        ordered, order = logits.sort(descending=True, stable=True)
        mass = ordered.softmax(-1)
        dropped = (mass.cumsum(-1) - mass) >= rule.top_p
        dropped[0] = False
        logits[order[dropped]] = -torch.inf
    if rule.min_p > 0:
        logits[logits < logits.max() + math.log(rule.min_p)] = -torch.inf
    return logits


@settings(max_examples=100, deadline=None)
@given(st.lists(rules, min_size=1, max_size=32), st.integers(0, 2**31), st.sampled_from([0.0, 0.5]))
def test_rows_restricted_together_equal_rows_restricted_alone(mixed: list[Sampling], seed: int, grain: float) -> None:
    logits = torch.randn(len(mixed), 300, generator=torch.Generator().manual_seed(seed)) * 3
    if grain:
        logits = (logits / grain).round() * grain  # many equal values
    expected = torch.stack([restricted_alone(row, rule) for row, rule in zip(logits, mixed, strict=True)])
    filter_top(logits, mixed)
    assert torch.equal(logits, expected)


def test_the_repetition_penalty_counts_prompt_and_answer_as_transformers_does() -> None:
    logits = torch.randn(1, VOCAB)
    rule = Sampling(temperature=0.0, repetition_penalty=50.0)
    row = sequence(0, rule, ids=(3, 7))
    penalizing = sampler()
    penalizing.prepare_row(row)
    (first,) = ids(penalizing.sample(logits, next_samples([row])).read())
    assert first is not None
    expected = RepetitionPenaltyLogitsProcessor(50.0)(torch.tensor([[3, 7]]), logits.clone())
    assert first == int(expected.argmax())
    row.generated.append(first)
    expected = RepetitionPenaltyLogitsProcessor(50.0)(torch.tensor([[3, 7, first]]), logits.clone())
    assert ids(penalizing.sample(logits, next_samples([row])).read()) == [int(expected.argmax())]


def test_presence_is_charged_once_and_frequency_every_time() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 5], logits[0, 9] = 2.0, 1.0
    presence = sequence(0, Sampling(temperature=0.0, presence_penalty=0.6))
    frequency = sequence(1, Sampling(temperature=0.0, frequency_penalty=0.6))
    both = sampler()
    sampled: list[list[int | None]] = []
    for row in (presence, frequency):
        both.prepare_row(row)
    for _ in range(4):
        sampled.append(ids(both.sample(logits.repeat(2, 1), next_samples([presence, frequency])).read()))
    assert [step[0] for step in sampled] == [5, 5, 5, 5]
    assert [step[1] for step in sampled] == [5, 5, 9, 5]


def test_penalties_of_a_slots_former_owner_do_not_reach_the_next() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 5], logits[0, 9] = 2.0, 1.0
    rule = Sampling(temperature=0.0, presence_penalty=1.9)
    shared = sampler(slots=1)
    for _ in range(2):
        row = sequence(0, rule)
        shared.prepare_row(row)
        assert [ids(shared.sample(logits, next_samples([row])).read()) for _ in range(2)] == [[5], [9]]


def test_a_row_that_is_not_finite_draws_nothing_and_others_are_untouched() -> None:
    logits = torch.randn(3, VOCAB)
    logits[1, 4] = torch.nan
    rows = [sequence(slot, Sampling(temperature=temperature)) for slot, temperature in enumerate((0.0, 1.0, 1.0))]
    sampled = ids(sampler().sample(logits, next_samples(rows)).read())
    assert sampled[1] is None
    assert sampled[0] == int(logits[0].argmax())
    assert sampled[2] is not None


def test_a_bias_is_added_to_a_tokens_logit() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, 5] = 3.0
    liked = sequence(0, Sampling(temperature=0.0, logit_bias=((9, 3.5),)))
    plain = sequence(1, Sampling(temperature=0.0))
    biased = sampler()
    for row in (liked, plain):
        biased.prepare_row(row)
    assert ids(biased.sample(logits, next_samples([liked, plain])).read()) == [9, 5]
    assert logits[0, 9] == 0


def test_a_bias_of_a_slots_former_owner_does_not_reach_the_next() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 5] = 3.0
    shared = sampler(slots=1)
    shared.prepare_row(sequence(0, Sampling(temperature=0.0, logit_bias=((9, 100.0),))))
    row = sequence(0, Sampling(temperature=0.0, min_tokens=1))
    shared.prepare_row(row)
    assert ids(shared.sample(logits, next_samples([row])).read()) == [5]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_end_token_is_drawn_before_min_tokens(temperature: float) -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 7], logits[0, 9] = 50.0, 40.0
    row = sequence(0, Sampling(temperature=temperature, min_tokens=2))
    early = sampler(stop_ids=frozenset([7, 8]))
    early.prepare_row(row)
    for expected in (9, 9, 7):
        (token_id,) = ids(early.sample(logits, next_samples([row])).read())
        assert token_id == expected
        row.generated.append(expected)


@pytest.mark.parametrize("vocab_size", [31, 32, 33, 1000])
def test_a_mask_forbids_the_tokens_whose_bits_are_not_set(vocab_size: int) -> None:
    words = -(-(vocab_size + 1) // 32)
    bits = np.random.default_rng(0).integers(-(2**31), 2**31, (3, words)).astype(np.int32)
    forbidden = forbidden_tokens(bits, vocab_size, torch.device("cpu"))
    assert forbidden.tolist() == [
        [not int(row[index // 32]) >> (index % 32) & 1 for index in range(vocab_size)] for row in bits
    ]
    assert torch.equal(~unpacked(torch.from_numpy(bits.view(np.uint8)))[:, :vocab_size], forbidden)  # as on a GPU


def test_logprobs_are_the_models_own_whatever_the_rules() -> None:
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0))
    logits[0, 11] = -1.0  # not among the likeliest
    expected = logits.log_softmax(-1)
    rule = Sampling(temperature=0.5, top_k=3, logit_bias=((11, 30.0),), presence_penalty=1.0, logprobs=4)
    rows = [
        sequence(0, rule),
        sequence(1, Sampling(temperature=0.0)),
        sequence(2, Sampling(temperature=0.0, logprobs=0)),
    ]
    asked = sampler()
    for row in rows:
        asked.prepare_row(row)
    first, second, third = asked.sample(logits, next_samples(rows)).read()
    assert isinstance(first, SampledToken)
    assert isinstance(second, SampledToken)
    assert isinstance(third, SampledToken)
    assert first.logprob is not None
    assert third.logprob is not None
    assert first.token_id == first.logprob.token_id == 11
    assert first.logprob.logprob == pytest.approx(float(expected[0, 11]))
    best = expected[0].topk(4)
    # The sampled token takes the place of the last.
    assert [index for index, _, _ in first.logprob.top] == [*best.indices.tolist()[:3], 11]
    assert [value for _, _, value in first.logprob.top] == pytest.approx(
        [*best.values.tolist()[:3], float(expected[0, 11])]
    )
    assert second.logprob is None
    assert third.logprob.top == ()
    assert third.logprob.logprob == pytest.approx(float(expected[2].max()))


@settings(max_examples=60, deadline=None)
@given(rules, st.integers(0, 2**31), st.integers(2, 6), st.integers(0, 6))
def test_rows_of_a_draft_are_sampled_as_one_after_the_other(rule: Sampling, seed: int, length: int, wrong: int) -> None:
    """Tokens, log probabilities and the counts of penalties, up to the first wrong token of the draft."""
    rule = replace(rule, min_tokens=0)
    logits = torch.randn(length + 1, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    alone, drafting = sampler(), sampler()
    for one in (alone, drafting):
        one.prepare_row(sequence(0, rule))
    row, expected = sequence(0, rule, seed), []
    for place in range(min(length, wrong) + 1):
        expected += alone.sample(logits[place : place + 1], next_samples([row])).read()
        row.generated.append(ids(expected)[-1])  # type: ignore[arg-type]
    draft = [*row.generated, *[0] * length][:length]
    if wrong < length:
        draft[wrong] = (draft[wrong] + 1) % VOCAB
    row = sequence(0, rule, seed)
    samples = [Sample(row, place, tuple(draft[:place])) for place in range(length + 1)]
    assert drafting.sample(logits, samples).read()[: len(expected)] == expected
    if drafting._counts is not None and alone._counts is not None:
        assert torch.equal(drafting._counts, alone._counts)
