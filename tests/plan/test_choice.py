"""The plan itself: it fits the card, carries the load, and gives a sentence where it can't."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.memory import WORKSPACE_BYTES
from serve_app.errors import InvalidRequest
from serve_app.plan.capacity import MOST_ROWS
from serve_app.plan.cards import GB, KNOWN, Card, card_named
from serve_app.plan.checkpoints import Checkpoint
from serve_app.plan.choice import DRIVER_BYTES, Load, Plan, plan
from tests.plan.conftest import CHECKPOINTS

LOADS = st.builds(
    Load,
    requests_per_s=st.floats(0.01, 500),
    pictures=st.lists(st.tuples(st.integers(64, 4000), st.integers(64, 4000)), max_size=2).map(tuple),
    prompt_tokens=st.integers(1, 2000),
    answer_tokens=st.integers(1, 1000),
    first_token_s=st.one_of(st.none(), st.floats(1, 120)),
)
CARDS = st.sampled_from(KNOWN)
MODELS = st.sampled_from(sorted(CHECKPOINTS))


def load(requests_per_s: float = 3, **other: object) -> Load:
    usual = {"pictures": ((1120, 1120),), "prompt_tokens": 200, "answer_tokens": 150, "first_token_s": None}
    return Load(requests_per_s, **{**usual, **other})  # type: ignore[arg-type]


def planned(model: str, card: Card, wanted: Load) -> Plan | None:
    try:
        return plan(CHECKPOINTS[model], card, wanted)
    except InvalidRequest:
        return None


@settings(max_examples=200, deadline=None)
@given(model=MODELS, card=CARDS, wanted=LOADS)
def test_a_plan_fits_the_card_and_carries_the_load(model: str, card: Card, wanted: Load):
    made = planned(model, card, wanted)
    if made is None:
        return
    weights = CHECKPOINTS[model].sizes.weight_bytes(made.quantization)
    slots = made.slots * made.memory.slot
    assert weights + slots + WORKSPACE_BYTES + DRIVER_BYTES + made.memory.features <= card.memory_bytes
    assert made.memory.used(made.slots) <= card.memory_bytes
    assert 1 <= made.slots <= MOST_ROWS
    assert made.request.tokens <= made.context_tokens <= CHECKPOINTS[model].longest_context
    assert made.replicas * made.most_per_replica >= wanted.requests_per_s * (1 - 1e-9)
    assert made.replica.carries(wanted.requests_per_s / made.replicas, made.slots, made.first_token_s)
    assert made.replicas <= made.replicas_at_peak
    assert all(tokens <= made.image_tokens for tokens in made.request.pictures)


@settings(max_examples=100, deadline=None)
@given(model=MODELS, card=CARDS, wanted=LOADS, times=st.floats(1, 20))
def test_more_load_never_takes_fewer_gpus(model: str, card: Card, wanted: Load, times: float):
    made = planned(model, card, wanted)
    more = planned(model, card, load(wanted.requests_per_s * times, **_but_the_rate(wanted)))
    assert (made is None) == (more is None)
    if made is not None and more is not None:
        assert more.replicas >= made.replicas
        assert more.replicas_at_peak >= made.replicas_at_peak
        assert more.stages.pods.most >= made.stages.pods.most


@settings(max_examples=100, deadline=None)
@given(model=MODELS, card=CARDS, wanted=LOADS, gb=st.integers(1, 100))
def test_more_memory_never_takes_more_gpus(model: str, card: Card, wanted: Load, gb: int):
    made = planned(model, card, wanted)
    larger = Card(
        card.name, card.memory_bytes + gb * GB, card.bandwidth_gb_s, card.tensor_tflops, card.sms, card.clock_ghz, ""
    )
    if made is not None:
        within_s = made.first_token_s  # what is taken where nothing is asked depends on what fits
        same = plan(CHECKPOINTS[model], card, load(wanted.requests_per_s, **_but_the_rate(wanted, within_s)))
        more = plan(CHECKPOINTS[model], larger, load(wanted.requests_per_s, **_but_the_rate(wanted, within_s)))
        if more.quantization.vision == same.quantization.vision:  # whole, a tower costs a little time
            assert more.replicas <= same.replicas


def _but_the_rate(wanted: Load, within_s: float | None = None) -> dict[str, object]:
    return {
        "pictures": wanted.pictures,
        "prompt_tokens": wanted.prompt_tokens,
        "answer_tokens": wanted.answer_tokens,
        "first_token_s": within_s or wanted.first_token_s,
    }


def test_weights_stay_whole_where_that_costs_no_gpu(flash: Checkpoint):
    assert plan(flash, card_named("H200"), load(20)).quantization.kind == "none"
    assert plan(flash, card_named("L4"), load(0.1)).quantization.kind == "nf4"


def test_glm_4v_9b_on_16_gb_has_its_tower_packed_too(original: Checkpoint):
    made = plan(original, card_named("T4"), load(0.05))
    assert made.quantization.vision


def test_a_model_that_does_not_fit_is_told_the_card_that_would_do(original: Checkpoint):
    with pytest.raises(InvalidRequest) as refused:
        plan(original, card_named("A10"), load(), quantization="none")
    assert str(refused.value) == (
        "the model whole with one slot of 3,072 tokens needs 28.8 GiB of the 22.4 GiB that A10 has;"
        " the smallest known card that would do is RTX 5090"
    )


def test_a_card_that_is_too_slow_is_told_what_would_do(flash: Checkpoint):
    with pytest.raises(InvalidRequest) as refused:
        plan(flash, card_named("T4"), load(pictures=((1920, 1080),), first_token_s=1.0))
    told = str(refused.value)
    assert told.startswith("an idle T4 needs ")
    assert "--first-token-seconds" in told
    assert "a faster card such as" in told


def test_what_is_advised_to_a_slow_card_is_accepted(flash: Checkpoint):
    with pytest.raises(InvalidRequest) as refused:
        plan(flash, card_named("T4"), load(pictures=((1920, 1080),), first_token_s=1.0))
    words = str(refused.value).replace(",", "").split()
    enough_s = float(words[words.index("--first-token-seconds") + 1])
    assert plan(flash, card_named("T4"), load(pictures=((1920, 1080),), first_token_s=enough_s)).replicas > 0


def test_a_request_longer_than_the_model_is_refused(original: Checkpoint):
    with pytest.raises(InvalidRequest, match="longer than the model's 9,791"):
        plan(original, card_named("H200"), load(prompt_tokens=9000))


def test_a_context_that_holds_no_request_is_refused(flash: Checkpoint):
    with pytest.raises(InvalidRequest, match="1,024 has to hold the request's 1,950 tokens"):
        plan(flash, card_named("H200"), load(), context_tokens=1024)


def test_a_context_that_is_given_is_taken(flash: Checkpoint):
    assert plan(flash, card_named("H200"), load(), context_tokens=10_000).context_tokens == 10_000


def test_glm_4v_9b_is_planned_for_one_picture_only(original: Checkpoint):
    with pytest.raises(InvalidRequest, match="sees one picture in a conversation"):
        plan(original, card_named("H200"), load(pictures=((100, 100), (100, 100))))
