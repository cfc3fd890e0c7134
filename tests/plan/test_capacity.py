"""What a replica carries, against the engine's own scheduler under random arrivals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.model.quantization import Quantization
from serve_app.plan.capacity import Replica, Request
from serve_app.plan.cards import KNOWN, Card, card_named
from serve_app.plan.costs import Costs
from tests.plan.conftest import CHECKPOINTS
from tests.plan.simulation import simulate

FLASH = CHECKPOINTS["glm-4.6v-flash"]
WHOLE, NF4 = Quantization(), Quantization("nf4")


def replica(card: str, held: Quantization, picture: int, answer: int, chunk: int = 1024) -> Replica:
    costs = Costs(card_named(card), FLASH, held)
    return Replica(costs, Request((picture,) if picture else (), 200, answer), chunk)


@pytest.mark.parametrize(
    "made",
    [
        replica("H200", WHOLE, 1600, 128),
        replica("H200", WHOLE, 1600, 128, chunk=4096),
        replica("H200", WHOLE, 0, 300),
        replica("L4", NF4, 391, 150),
        replica("L4", NF4, 2691, 150, chunk=4096),
        replica("RTX 4090", NF4, 1600, 400),
    ],
    ids=["H200", "H200, large chunks", "H200, text", "L4, small pictures", "L4, large pictures", "RTX 4090"],
)
def test_the_formulas_agree_with_the_scheduler(made: Replica):
    within_s = max(2.0, 4 * made.idle_s)
    load = made.most(slots=64, first_token_s=within_s)
    operation = made.under(load)
    assert operation is not None
    answers = simulate(made, load, slots=64, requests=1200)[100:]
    first_tokens = sorted(answer.first_token_s for answer in answers)
    assert first_tokens[int(0.95 * len(first_tokens))] <= 1.15 * within_s
    assert first_tokens[int(0.95 * len(first_tokens))] <= 1.15 * operation.first_token_s
    mean_s = sum(answer.answer_s for answer in answers) / len(answers)
    assert mean_s == pytest.approx(operation.answer_s, rel=0.25)


@pytest.mark.parametrize("card", KNOWN, ids=lambda card: card.name)
def test_a_replica_is_never_planned_beyond_its_limit(card: Card):
    made = Replica(Costs(card, FLASH, NF4), Request((1600,), 200, 150), 1024)
    assert 0 < made.most(32, 10 * made.idle_s) < made.limit(32)


def test_an_idle_card_that_is_too_slow_carries_nothing():
    made = replica("T4", NF4, 2691, 150)
    assert made.most(32, made.idle_s / 2) == 0


REQUESTS = st.builds(
    Request,
    pictures=st.lists(st.sampled_from([64, 391, 1600, 2691]), max_size=2).map(tuple),
    text_tokens=st.integers(1, 2000),
    answer_tokens=st.integers(1, 1000),
)
CARDS = st.sampled_from(KNOWN)


@given(card=CARDS, held=st.sampled_from([WHOLE, NF4]), request=REQUESTS, slots=st.integers(1, 63))
def test_one_slot_more_carries_no_less(card: Card, held: Quantization, request: Request, slots: int):
    made = Replica(Costs(card, FLASH, held), request, 1024)
    within_s = 5 * made.idle_s
    assert made.most(slots + 1, within_s) >= made.most(slots, within_s) * (1 - 1e-9)


@given(card=CARDS, request=REQUESTS, more=st.integers(1, 500))
def test_longer_answers_carry_no_more(card: Card, request: Request, more: int):
    longer = Request(request.pictures, request.text_tokens, request.answer_tokens + more)
    costs = Costs(card, FLASH, NF4)
    short, long = Replica(costs, request, 1024), Replica(costs, longer, 1024)
    within_s = 5 * short.idle_s
    assert long.most(32, within_s) <= short.most(32, within_s) * (1 + 1e-9)


@given(card=CARDS, request=REQUESTS, seconds=st.floats(1, 60), patience=st.floats(1, 3))
def test_who_waits_longer_is_carried_more(card: Card, request: Request, seconds: float, patience: float):
    made = Replica(Costs(card, FLASH, NF4), request, 1024)
    assert made.most(32, seconds * patience) >= made.most(32, seconds) * (1 - 1e-9)


@given(request=REQUESTS, load=st.floats(0, 20))
def test_a_steady_operation_is_within_its_own_bounds(request: Request, load: float):
    made = Replica(Costs(card_named("H200"), FLASH, WHOLE), request, 1024)
    operation = made.under(load)
    if operation is not None:
        assert operation.first_token_s >= made.idle_s * (1 - 1e-9)
        assert operation.answer_s >= made.idle_s * (1 - 1e-9)
        assert operation.in_flight >= operation.rows
        assert operation.tokens_ahead >= 0
