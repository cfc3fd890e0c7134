"""The estimates of GPU time against every measurement in benchmarks/results."""

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.engine.model.quantization import Quantization
from serve_app.plan.cards import card_named
from serve_app.plan.gpu_time import GpuTime, RequestShape
from serve_app.plan.measured import EVENT_CPU_S, GPUS_MEASURED, PICTURE_MS, REQUEST_CPU_S
from tests.plan.conftest import CHECKPOINTS

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SERVICE_ERROR = 0.2  # largest, of requests per second
GLM4V = "glm-4.6v-flash", "engine-2026-11-21-graphs.json", 1600, 2048
GLM_4V_9B = "glm-4v-9b", "glm4v_9b-2026-11-21.json", 1602, 1618
# Measured without HTTP: (model, source, picture tokens, prefill_tokens), figure, seconds, error, prompt, rows, weights
ENGINE = [
    (GLM4V, "first_token", 0.1226, 0.05, 1808, 1, "none"),
    (GLM4V, "step", 0.01146, 0.15, 1840, 1, "none"),
    (GLM4V, "step", 0.01300, 0.05, 1840, 8, "none"),
    (GLM4V, "step", 0.01414, 0.15, 1840, 32, "none"),
    (GLM_4V_9B, "encode", 0.13681, 0.05, 1618, 1, "none"),
    (GLM_4V_9B, "first_token", 0.1933, 0.05, 1618, 1, "none"),
    (GLM_4V_9B, "first_token", 0.2205, 0.1, 1618, 1, "nf4"),
    (GLM_4V_9B, "step", 0.01057, 0.2, 1642, 1, "none"),
    (GLM_4V_9B, "step", 0.01186, 0.15, 1642, 8, "none"),
    (GLM_4V_9B, "step", 0.01004, 0.2, 1642, 1, "nf4"),
    (GLM_4V_9B, "step", 0.02304, 0.05, 1642, 8, "nf4"),
]


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def service_rounds() -> list[Any]:
    """(weights, prefill_tokens, callers, requests per second) of GLM-4.6V-Flash on an H200, over HTTP."""
    runs = result("capacity-2026-11-21.json")["runs"]
    return [
        (run["served"]["quantization"], run["prefill_tokens"], each["callers"], each["requests_per_s"])
        for run in runs
        for each in run["rounds"]
    ]


@pytest.mark.parametrize(("kind", "prefill_tokens", "callers", "requests_per_s"), service_rounds())
def test_a_measured_rate_of_requests_is_estimated_within_its_error(
    kind: Any, prefill_tokens: int, callers: int, requests_per_s: float
):
    gpu_time = GpuTime(card_named("H200"), CHECKPOINTS["glm-4.6v-flash"], Quantization(kind))
    request = RequestShape((1600,), 198, 128)
    estimate = 1 / gpu_time.request_s(request, prefill_tokens, callers)
    assert estimate == pytest.approx(requests_per_s, rel=SERVICE_ERROR)


@pytest.mark.parametrize(("setting", "figure", "seconds", "error", "prompt", "rows", "kind"), ENGINE)
def test_a_measured_time_of_the_engine_is_estimated_within_its_error(
    setting: tuple[str, str, int, int], figure: str, seconds: float, error: float, prompt: int, rows: int, kind: Any
):
    model, _, picture_tokens, prefill_tokens = setting
    gpu_time = GpuTime(card_named("H200"), CHECKPOINTS[model], Quantization(kind))
    request = RequestShape((picture_tokens,), prompt - picture_tokens, 1)
    estimates = {
        "encode": gpu_time.encode_s(request),
        "first_token": gpu_time.first_token_s(request, prefill_tokens),
        "step": gpu_time.step_s(rows, prompt),
    }
    assert estimates[figure] == pytest.approx(seconds, rel=error)


@pytest.mark.parametrize("source", ["capacity-2026-11-21.json", GLM4V[1], GLM_4V_9B[1]])
def test_every_source_is_among_the_results_and_says_how_it_was_made(source: str):
    found = result(source)
    assert "python -m benchmarks." in found.get("note", "") + found.get("command", "")
    assert found["date"] in source


def test_a_pictures_core_time_is_that_of_the_result():
    sizes = result("preprocess-2026-11-21.json")["sizes"]
    measured = [(size.split("x"), figures["ours"]["p50_ms"]) for size, figures in sizes.items()]
    assert [(int(width) * int(height), ms) for (width, height), ms in measured] == list(PICTURE_MS)


def test_the_cost_of_a_request_and_of_an_event_is_that_of_the_result():
    direct = result("hops-2026-11-21.json")["modes"]["direct"]
    assert pytest.approx(2 / direct["chain c=16"]["requests_per_s"]) == REQUEST_CPU_S
    events = direct["transports"]["all by value"]
    longer_s = (events["100 events"]["p50_ms"] - events["0 bytes"]["p50_ms"]) / 1e3
    assert pytest.approx(2 * longer_s / 100) == EVENT_CPU_S


def test_the_rates_of_several_gpus_are_those_of_the_results():
    ratios = [
        (ratio["gpus"], ratio["requests_per_s"])
        for file in sorted(RESULTS.glob("capacity-*-gpus*.json"))
        for ratio in json.loads(file.read_text())["ratios"]
        if ratio["over"] == 1 and ratio["way"] == "direct" and "requests_per_s" in ratio
    ]
    assert [(gpus, pytest.approx(times, abs=0.01)) for gpus, times in GPUS_MEASURED] == ratios
