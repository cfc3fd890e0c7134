"""The plan's arithmetic against everything that was measured."""

import json
from pathlib import Path

import pytest

from serve_app.plan.capacity import Replica, Request
from serve_app.plan.cards import card_named
from serve_app.plan.costs import Costs
from serve_app.plan.measured import EVENT_CPU_S, PICTURE_MS, POINTS, REQUEST_CPU_S, Measured
from tests.plan.conftest import CHECKPOINTS
from tests.plan.simulation import closed_loop

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
EACH = 4  # questions of one caller, as benchmarks/capacity.py asks


def predicted(point: Measured) -> float:
    costs = Costs(card_named(point.card), CHECKPOINTS[point.model], point.quantization)
    text = point.prompt_tokens - point.picture_tokens
    replica = Replica(costs, Request((point.picture_tokens,), text, point.answer_tokens), point.chunk_tokens)
    match point.figure:
        case "encode_s":
            return costs.encode_s(point.picture_tokens)
        case "first_token_s":
            return replica.idle_s
        case "step_s":
            return costs.step_s(point.rows, point.prompt_tokens)
        case "requests_per_s":
            answers = closed_loop(replica, callers=point.rows, slots=point.rows, each=EACH)
            return len(answers) / max(answer.arrived + answer.answer_s for answer in answers)


def name(point: Measured) -> str:
    return f"{point.figure} of {point.model} {point.quantization.kind}, {point.rows} at once, {point.chunk_tokens}"


@pytest.mark.parametrize("point", POINTS, ids=name)
def test_a_measured_point_is_predicted_within_its_error(point: Measured):
    assert predicted(point) == pytest.approx(point.value, rel=point.within)


@pytest.mark.parametrize("source", sorted({point.source for point in POINTS}))
def test_every_source_is_among_the_results_and_says_how_it_was_made(source: str):
    result = json.loads((RESULTS / source).read_text())
    assert "python -m benchmarks." in result.get("note", "") + result.get("command", "")
    assert result["date"] in source


def test_a_pictures_core_time_is_that_of_the_result():
    sizes = json.loads((RESULTS / "preprocess-2026-11-21.json").read_text())["sizes"]
    measured = [(size.split("x"), figures["ours"]["p50_ms"]) for size, figures in sizes.items()]
    assert [(int(width) * int(height), ms) for (width, height), ms in measured] == list(PICTURE_MS)


def test_the_cost_of_a_request_and_of_an_event_is_that_of_the_result():
    direct = json.loads((RESULTS / "hops-2026-11-21.json").read_text())["modes"]["direct"]
    assert pytest.approx(2 / direct["chain c=16"]["requests_per_s"]) == REQUEST_CPU_S
    events = direct["transports"]["all by value"]
    longer_s = (events["100 events"]["p50_ms"] - events["0 bytes"]["p50_ms"]) / 1e3
    assert pytest.approx(2 * longer_s / 100) == EVENT_CPU_S


def test_every_round_of_the_capacity_benchmark_is_a_point():
    result = json.loads((RESULTS / "capacity-2026-11-21.json").read_text())
    rounds = {
        (run["served"]["quantization"], run["prefill_tokens"], round_["callers"], round_["requests_per_s"])
        for run in result["runs"]
        for round_ in run["rounds"]
    }
    points = [point for point in POINTS if point.source == "capacity-2026-11-21.json"]
    assert {(point.quantization.kind, point.chunk_tokens, point.rows, point.value) for point in points} == rounds
