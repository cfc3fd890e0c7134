"""The plan fits the card and the load, and a refusal says what would be possible."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.memory import WORKSPACE_BYTES, plan_pages
from serve_app.errors import InvalidRequest
from serve_app.plan.capacity_plan import DRIVER_BYTES, MEMORY_USE, MOST_SLOTS, CapacityPlan, Load, plan_capacity
from serve_app.plan.cards import GB, KNOWN, Card, card_named
from serve_app.plan.checkpoints import Checkpoint
from tests.plan.conftest import CHECKPOINTS

LOADS = st.builds(
    Load,
    requests_per_s=st.floats(0.01, 500),
    pictures=st.lists(st.tuples(st.integers(64, 4000), st.integers(64, 4000)), max_size=2).map(tuple),
    text_tokens=st.integers(1, 2000),
    answer_tokens=st.integers(1, 1000),
)
CARDS = st.sampled_from(KNOWN)
MODELS = st.sampled_from(sorted(CHECKPOINTS))


def load(requests_per_s: float = 3, **other: object) -> Load:
    usual = {"pictures": ((1120, 1120),), "text_tokens": 200, "answer_tokens": 150}
    return Load(requests_per_s, **{**usual, **other})  # type: ignore[arg-type]


def planned(model: str, card: Card, wanted: Load) -> CapacityPlan | None:
    try:
        return plan_capacity(CHECKPOINTS[model], card, wanted)
    except InvalidRequest:
        return None


@settings(max_examples=200, deadline=None)
@given(model=MODELS, card=CARDS, wanted=LOADS)
def test_a_plan_fits_the_card_and_answers_the_load(model: str, card: Card, wanted: Load):
    made = planned(model, card, wanted)
    if made is None:
        return
    weights = CHECKPOINTS[model].sizes.weight_bytes(made.gpu_time.quantization)
    cache = CHECKPOINTS[model].sizes.cache
    requests = made.slots * made.request.tokens * cache.bytes_per_token
    fixed = weights + WORKSPACE_BYTES + DRIVER_BYTES
    assert fixed + requests <= MEMORY_USE * card.memory_bytes
    assert fixed + requests <= made.memory.used(made.slots) <= card.memory_bytes
    assert made.memory.cache_bytes(made.slots) >= made.context_tokens * cache.bytes_per_token
    assert 1 <= made.slots <= MOST_SLOTS
    assert made.request.tokens <= made.context_tokens <= CHECKPOINTS[model].longest_context
    assert made.replicas * made.requests_per_s >= wanted.requests_per_s * (1 - 1e-9)
    assert made.replicas <= made.replicas_at_peak
    assert all(tokens <= made.image_tokens for tokens in made.request.pictures)


@settings(max_examples=100, deadline=None)
@given(model=MODELS, card=CARDS, wanted=LOADS, times=st.floats(1, 20))
def test_more_load_never_takes_fewer_gpus(model: str, card: Card, wanted: Load, times: float):
    made = planned(model, card, wanted)
    more = planned(model, card, replace(wanted, requests_per_s=wanted.requests_per_s * times))
    assert (made is None) == (more is None)
    if made is not None and more is not None:
        assert more.replicas >= made.replicas
        assert more.replicas_at_peak >= made.replicas_at_peak
        assert more.cpu_stages.pods.most >= made.cpu_stages.pods.most


@settings(max_examples=100, deadline=None)
@given(model=MODELS, card=CARDS, wanted=LOADS, gb=st.integers(1, 100))
def test_a_plan_of_a_card_is_possible_with_more_memory_too(model: str, card: Card, wanted: Load, gb: int):
    made = planned(model, card, wanted)
    more = planned(model, replace(card, memory_bytes=card.memory_bytes + gb * GB), wanted)
    if made is not None:
        assert more is not None
        assert more.memory.weights >= made.memory.weights  # never quantized further than on the smaller card


@pytest.mark.parametrize(("card", "kind"), [("H200", "none"), ("L4", "fp8"), ("RTX 4090", "fp8"), ("A10", "nf4")])
def test_weights_are_quantized_only_where_memory_is_short_and_to_fp8_where_the_card_has_it(
    flash: Checkpoint, card: str, kind: str
):
    assert plan_capacity(flash, card_named(card), load(0.1)).gpu_time.quantization.kind == kind


def test_fp8_answers_more_requests_than_unquantized_weights(flash: Checkpoint):
    unquantized, fp8 = (plan_capacity(flash, card_named("H200"), load(), kind) for kind in ("none", "fp8"))
    assert fp8.requests_per_s > 1.2 * unquantized.requests_per_s


@pytest.mark.parametrize(("card", "capability"), [("A10", "8.6"), ("T4", "7.5")])
def test_fp8_is_refused_on_a_card_without_it(flash: Checkpoint, card: str, capability: str):
    with pytest.raises(InvalidRequest, match=f"compute capability 8.9 or newer.* {card} has {capability}"):
        plan_capacity(flash, card_named(card), load(), "fp8")


def test_fp8_is_not_chosen_for_a_model_that_computes_in_float16(flash: Checkpoint):
    float16 = replace(flash, sizes=replace(flash.sizes, cache=replace(flash.sizes.cache, dtype=torch.float16)))
    assert plan_capacity(float16, card_named("L4"), load(0.1)).gpu_time.quantization.kind == "nf4"


def test_requests_at_once_are_counted_in_pages_of_the_request_not_of_the_context(flash: Checkpoint):
    counted = {
        context: plan_capacity(flash, card_named("L4"), load(), context_tokens=context).memory.slots
        for context in (2048, 8192, 65_536)
    }
    assert counted[2048] == counted[8192] == counted[65_536] > 64


def test_cards_without_the_engines_kernels_have_slots_of_the_whole_context(flash: Checkpoint):
    short, long = (plan_capacity(flash, card_named("T4"), load(), context_tokens=size) for size in (3072, 6144))
    assert short.memory.slots == pytest.approx(2 * long.memory.slots, abs=2)
    assert short.memory.used(short.slots) <= MEMORY_USE * short.memory.card


def test_pages_are_those_that_the_engine_allocates(flash: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    """`plan_pages` of the engine with the memory that the plan expects to be free when weights are loaded."""
    for name in ("L4", "H200"):
        made = plan_capacity(flash, card_named(name), load(), context_tokens=8192)
        free = made.memory.card - made.memory.weights - DRIVER_BYTES
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
        pages = plan_pages(made.slots, flash.sizes.cache, 8192, 256 * 2**20, torch.device("cuda"))
        assert made.memory.pages(made.slots) == pages
    assert pages == 64 * 128 + 1


def test_glm_4v_9b_on_16_gb_has_its_tower_quantized_too(original: Checkpoint):
    assert plan_capacity(original, card_named("T4"), load(0.05)).gpu_time.quantization.vision


def test_a_card_without_the_engines_kernels_takes_longer_than_its_data_sheet_says(flash: Checkpoint):
    t4 = card_named("T4")
    slots, pages = (plan_capacity(flash, card, load()).first_token_s for card in (t4, replace(t4, capability=(8, 0))))
    assert slots > 1.5 * pages


def test_the_refusal_of_a_model_that_does_not_fit_names_a_card_that_holds_it(original: Checkpoint):
    with pytest.raises(InvalidRequest) as refused:
        plan_capacity(original, card_named("A10"), load(), quantization="none")
    assert str(refused.value) == (
        "The model (unquantized weights) with one request of 3,072 tokens needs 29.3 GiB; 94% of A10 are 21.0 GiB."
        " The smallest known card that holds it is A100 40GB."
    )


def test_what_a_number_of_gpus_carries_needs_that_number_of_gpus(flash: Checkpoint):
    carried = plan_capacity(flash, card_named("H200"), load(0), gpus=8)
    assert carried.replicas == carried.replicas_at_peak == 8
    assert carried.load.requests_per_s == pytest.approx(8 * carried.requests_per_s)
    asked = plan_capacity(flash, card_named("H200"), load(carried.load.requests_per_s * 0.999))
    assert asked.replicas == 8


def test_a_service_of_several_gpus_has_two_of_each_stage(flash: Checkpoint):
    made = plan_capacity(flash, card_named("H200"), load(10))
    assert made.replicas == 2
    assert min(made.cpu_stages.ingress.least, made.cpu_stages.preprocess.least, made.cpu_stages.pods.least) == 2


def test_a_request_longer_than_the_model_is_refused(original: Checkpoint):
    with pytest.raises(InvalidRequest, match="the model takes at most 9,791"):
        plan_capacity(original, card_named("H200"), load(text_tokens=9000))


def test_a_context_that_does_not_hold_the_request_is_refused(flash: Checkpoint):
    with pytest.raises(InvalidRequest, match="context of 1,024 tokens is impossible: the request has 1,950 tokens"):
        plan_capacity(flash, card_named("H200"), load(), context_tokens=1024)


def test_a_context_that_is_given_is_used(flash: Checkpoint):
    assert plan_capacity(flash, card_named("H200"), load(), context_tokens=10_000).context_tokens == 10_000


def test_glm_4v_9b_is_planned_for_one_picture_only(original: Checkpoint):
    with pytest.raises(InvalidRequest, match="takes at most 1 picture in a conversation"):
        plan_capacity(original, card_named("H200"), load(pictures=((100, 100), (100, 100))))
