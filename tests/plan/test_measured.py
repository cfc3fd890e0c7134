"""The estimates of GPU time against every measurement in benchmarks/results."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.engine.model.quantization import Quantization
from serve_app.plan.capacity_plan import Load, plan_capacity
from serve_app.plan.cards import card_named
from serve_app.plan.cpu_stages import picture_ms
from serve_app.plan.gpu_time import GpuTime, RequestShape
from serve_app.plan.measured import EVENT_CPU_S, GPUS_MEASURED, INGRESS_CPU_S, PICTURE_MS, PREPROCESS_CPU_S, is_measured
from tests.plan.conftest import CHECKPOINTS

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SOURCES = {
    "engine": "engine-2026-11-30-later.json",
    "none": "capacity-2026-11-30-vllm-later.json",
    "fp8": "capacity-2026-11-30-fp8-tiles.json",
    "tower": "vision-tower-2026-11-29.json",
}
H200 = card_named("H200")
FLASH = CHECKPOINTS["glm-4.6v-flash"]
ENGINE_ERROR = 0.15  # largest, of a time without HTTP
SERVICE_ERROR, FULL_ERROR = 0.2, 0.1  # largest, of requests per second: with few callers, and with 64


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def gpu_time(kind: Any) -> GpuTime:
    return GpuTime(H200, FLASH, Quantization(kind))


def service_rounds() -> list[Any]:
    """(weights, callers, requests per second) of GLM-4.6V-Flash's shape on an H200, over HTTP."""
    return [
        (kind, each["callers"], each["requests_per_s"])
        for kind in ("none", "fp8")
        for each in result(SOURCES[kind])["servers"]["ours"]["rounds"]
    ]


def engine_batches() -> list[Any]:
    """(weights, rows, what was measured) without HTTP."""
    return [
        ({"bf16": "none"}.get(name, name), int(rows), batch)
        for name, measured in result(SOURCES["engine"]).items()
        for rows, batch in measured["batches"].items()
    ]


def test_rates_of_unquantized_and_fp8_weights_with_1_to_64_callers_were_measured():
    assert [(kind, callers) for kind, callers, _ in service_rounds()] == [
        ("none", 1),
        ("none", 8),
        ("none", 32),
        ("none", 64),
        ("fp8", 1),
        ("fp8", 64),
    ]
    assert {kind: is_measured("H200", "glm4v", Quantization(kind)) for kind in ("none", "fp8", "nf4")} == {
        "none": True,
        "fp8": True,
        "nf4": False,
    }
    assert not is_measured("H200", "glm4v_9b", Quantization())


@pytest.mark.parametrize(("kind", "callers", "requests_per_s"), service_rounds())
def test_a_measured_rate_of_requests_is_estimated_within_its_error(kind: Any, callers: int, requests_per_s: float):
    estimate = 1 / gpu_time(kind).request_s(RequestShape((1600,), 198, 128), callers)
    assert estimate == pytest.approx(requests_per_s, rel=FULL_ERROR if callers == 64 else SERVICE_ERROR)


@pytest.mark.parametrize(("kind", "rows", "batch"), engine_batches())
def test_a_measured_step_is_estimated_within_its_error(kind: Any, rows: int, batch: dict[str, float]):
    assert 1e3 * gpu_time(kind).step_s(rows, 1840) == pytest.approx(batch["ms_per_step"], rel=ENGINE_ERROR)


@pytest.mark.parametrize(("kind", "rows", "batch"), [each for each in engine_batches() if each[1] == 1])
def test_a_measured_first_token_is_estimated_within_its_error(kind: Any, rows: int, batch: dict[str, float]):
    estimate = gpu_time(kind).first_token_s(RequestShape((1600,), 208, 128))
    assert estimate == pytest.approx(batch["first_token_s"], rel=ENGINE_ERROR)


@pytest.mark.parametrize("size", result(SOURCES["tower"])["pictures"])
def test_the_measured_time_of_packed_pictures_is_estimated_within_its_error(size: str):
    measured = result(SOURCES["tower"])["pictures"][size]["4 packed, ms each"]
    width, height = map(int, size.split("x"))
    request = RequestShape((FLASH.picture_tokens(width, height, 10_000),), 1, 1)
    assert 1e3 * gpu_time("none").encode_s(request) == pytest.approx(measured, rel=ENGINE_ERROR)


@pytest.mark.parametrize("kind", ["nf4", "fp8"])
def test_requests_that_a_24_gb_card_held_at_once_are_what_the_plan_counts(kind: Any):
    """All of them ran at once without a failure; the plan counts with 94 % of the card, and no more than fitted."""
    measured = result(f"card_memory-2026-11-30-{kind}.json")
    card = replace(card_named("RTX 4090"), memory_bytes=int(measured["gib"] * 2**30))
    load = Load(1, ((1120, 1120),), 208, 128)
    planned = plan_capacity(FLASH, card, load, kind, context_tokens=4096).memory.slots
    assert measured["at_once"] == measured["requests"]
    assert not measured["failures"]
    assert measured["at_once"] * 0.8 <= planned <= measured["at_once"]


def test_a_pictures_core_time_is_that_of_the_result():
    sizes = result("preprocess-2026-11-21.json")["sizes"]
    measured = [(size.split("x"), figures["ours"]["p50_ms"]) for size, figures in sizes.items()]
    assert [(int(width) * int(height), ms) for (width, height), ms in measured] == list(PICTURE_MS)


@pytest.mark.parametrize("service", result("capacity-2026-11-30-2-gpus.json")["services"], ids=lambda each: each["way"])
def test_the_measured_cores_of_ingress_and_preprocess_are_estimated_within_a_tenth(service: dict[str, Any]):
    rate, cores = service["load"]["requests_per_s"], service["load"]["cores"]
    ingress_s = INGRESS_CPU_S + 128 * EVENT_CPU_S
    assert rate * ingress_s == pytest.approx(sum(cores["ingress"]), rel=0.1)
    preprocess_s = PREPROCESS_CPU_S + picture_ms(1120, 1120) / 1e3
    assert rate * preprocess_s == pytest.approx(sum(cores["preprocess"] + cores["decoders"]), rel=0.1)


def test_the_rates_of_several_gpus_are_those_of_the_results():
    ratios = [
        (ratio["gpus"], ratio["requests_per_s"])
        for file in sorted(RESULTS.glob("capacity-*-gpus*.json"))
        for ratio in json.loads(file.read_text())["ratios"]
        if ratio["over"] == 1 and ratio["way"] == "direct" and "requests_per_s" in ratio
    ]
    assert [(gpus, pytest.approx(times, abs=0.01)) for gpus, times in GPUS_MEASURED] == ratios
