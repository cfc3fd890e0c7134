"""What a model takes and what fits, in numbers; sizes are those of the 9B models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serve_app.doctor.fit import Demand, check_fit, fit_slots
from serve_app.doctor.report import Finding, Status
from serve_app.engine.memory import plan_pages
from serve_app.engine.model.families.glm4v_9b import empty_network
from serve_app.engine.model.footprint import Sizes
from serve_app.engine.model.pages import pages_for
from serve_app.engine.model.quantization import Quantization
from serve_app.engine.model.slots import CacheShape
from tests.doctor.conftest import named, the_one

GIB = 2**30
UNQUANTIZED, FP8, NF4, INT8 = Quantization(), Quantization("fp8"), Quantization("nf4"), Quantization("int8")
NF4_ALL = Quantization("nf4", vision=True)
CACHE = CacheShape(layers=40, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
FLASH = Sizes(text_linear=8_158_000_000, vision_linear=880_000_000, unquantized=1_254_777_472, cache=CACHE)
SMALL = replace(FLASH, text_linear=10**7, vision_linear=10**6, unquantized=10**6)
FULL_9B = json.loads((Path(__file__).parents[1] / "glm-4v-9b.config.json").read_text())


def demand(
    free_gib: float,
    quantization: Quantization = UNQUANTIZED,
    slots: int = 16,
    context: int = 8192,
    device: str = "cuda",
    has_pages: bool = False,
    has_fp8: bool = False,
) -> Demand:
    return Demand(
        device,
        quantization,
        slots,
        context,
        feature_bytes=2**28,
        free_bytes=int(free_gib * GIB),
        has_pages=has_pages,
        has_fp8=has_fp8,
    )


def fit(wanted: Demand, sizes: Sizes = FLASH) -> Finding:
    return named(check_fit(sizes, wanted), "memory")


@pytest.mark.parametrize(
    ("quantization", "gib"), [(UNQUANTIZED, 19.2), (FP8, 11.6), (NF4, 8.25), (INT8, 11.6), (NF4_ALL, 7.1)]
)
def test_weights_of_flash_take_what_was_measured(quantization: Quantization, gib: float):
    assert FLASH.weight_bytes(quantization) / GIB == pytest.approx(gib, abs=0.1)


def test_the_original_9b_is_counted_from_its_config():
    sizes = Sizes.of(empty_network(FULL_9B), CACHE, None)
    assert sizes.parameters == 13_906_320_896
    assert sizes.weight_bytes(UNQUANTIZED) / GIB == pytest.approx(25.9, abs=0.05)
    assert sizes.weight_bytes(NF4_ALL) / GIB < 10.5
    assert sizes.weight_bytes(NF4) - sizes.weight_bytes(NF4_ALL) > 5 * GIB  # the tower


def test_what_is_stored_quantized_takes_what_is_stored():
    stored = replace(FLASH, stored_bytes=8 * GIB)
    planned = fit_slots(stored, replace(demand(24), stored_as="bitsandbytes"))
    assert planned.weight_bytes == 8 * GIB
    assert planned.quantization == "bitsandbytes"


def test_the_finding_of_a_model_that_fits_lists_the_parts():
    finding = fit(demand(23.5, NF4))
    assert finding.status == Status.OK
    assert finding.seen == (
        "needs 15.5 GiB of 23.5 GiB free GPU memory: weights 8.3 GiB, 16 slots of 8,192 tokens 5.0 GiB,"
        " workspace and picture cache 2.2 GiB"
    )


def test_fewer_slots_than_wanted_are_a_warning_with_ways_to_have_all():
    finding = fit(demand(23.5))
    assert finding.status == Status.WARNING
    assert finding.seen.startswith("Only 6 slots of 16 fit")
    assert "For all 16 slots: --context 3328; or --quantization nf4." in finding.remedy


def test_pages_that_hold_all_slots_are_listed():
    finding = fit(demand(23.5, FP8, has_pages=True))
    assert finding.status == Status.OK
    assert "weights 11.6 GiB, 2,049 pages of 64 tokens 5.0 GiB" in finding.seen


def test_fewer_pages_than_wanted_are_a_warning_that_says_what_they_hold():
    finding = fit(demand(23.5, has_pages=True))
    assert finding.status == Status.WARNING
    assert finding.seen.startswith(
        "Only 851 of 2,049 pages fit, for 6 requests of 8,192 tokens at once, or 16 of 3,392: 23.5 GiB of 23.5 GiB free"
    )
    assert finding.remedy == (
        "`up` uses what fits; further requests wait for pages. For all 16 slots: --quantization nf4."
    )


def test_fp8_is_advised_where_the_gpu_has_it():
    assert "slots: --quantization fp8." in fit(demand(23.5, has_pages=True, has_fp8=True)).remedy
    assert fit(demand(15.5, has_pages=True, has_fp8=True)).remedy == "These options would fit: --quantization fp8."


def test_not_even_one_request_over_pages_is_a_problem():
    finding = fit(demand(22, has_pages=True, context=65_536))
    assert finding.status == Status.PROBLEM
    assert finding.seen.startswith("Not even one request of 65,536 tokens fits: it needs ")
    assert finding.remedy.startswith("These options would fit: --context ")


def test_pages_are_those_that_the_engine_allocates(monkeypatch: pytest.MonkeyPatch):
    for free_gib in (23.5, 27, 60):
        wanted = demand(free_gib, has_pages=True)
        left = int(free_gib * GIB) - FLASH.weight_bytes(UNQUANTIZED)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, left=left: (left, left))
        pages = plan_pages(16, CACHE, 8192, wanted.feature_bytes, torch.device("cuda"))
        assert fit_slots(FLASH, wanted).pages == pages


def test_a_model_too_large_unquantized_gets_the_quantization_that_fits():
    finding = fit(demand(15.5))
    assert finding.status == Status.PROBLEM
    assert finding.remedy == "These options would fit: --quantization nf4, with 15 slots."


def test_a_small_card_gets_the_advice_to_quantize_the_tower():
    sizes = Sizes.of(empty_network(FULL_9B), CACHE, None)
    finding = fit(demand(12.5, NF4), sizes)
    assert finding.status == Status.PROBLEM
    assert "--quantization nf4 --quantize-vision, with" in finding.remedy


def test_a_context_too_long_for_one_slot_gets_one_that_fits():
    finding = fit(demand(11, NF4, slots=1, context=131_072))
    assert finding.status == Status.PROBLEM
    assert finding.remedy.startswith("These options would fit: --slots 1 --context ")


def test_a_card_too_small_for_anything_gets_the_least_that_is_needed():
    finding = fit(demand(7.5))
    assert finding.status == Status.PROBLEM
    assert "even one slot of 2,048 tokens needs 9.4 GiB. Free memory, or use a larger GPU." in finding.remedy


def test_a_large_model_on_a_cpu_is_slow_and_that_is_said():
    findings = list(check_fit(FLASH, demand(64, device="cpu")))
    assert named(findings, "speed").status == Status.WARNING
    assert "10.3 billion parameters on a CPU" in named(findings, "speed").seen
    assert "free RAM" in named(findings, "memory").seen


def test_a_small_model_on_a_cpu_is_not_called_slow():
    assert the_one(check_fit(SMALL, demand(16, device="cpu"))).status == Status.OK


def test_a_cpu_has_to_hold_the_service_beside_the_model():
    finding = the_one(check_fit(SMALL, demand(7, device="cpu")))
    assert finding.status == Status.WARNING
    assert finding.seen.startswith("It may be too little: needs 5.3 GiB of 7.0 GiB free RAM")
    assert "about 3.0 GiB more" in finding.remedy


@given(
    free_gib=st.floats(1, 200),
    slots=st.integers(1, 64),
    context=st.integers(64, 131_072),
    quantization=st.sampled_from([UNQUANTIZED, FP8, NF4, INT8, NF4_ALL]),
)
def test_pages_that_are_planned_fit_and_are_no_fewer_than_that(
    free_gib: float, slots: int, context: int, quantization: Quantization
):
    wanted = demand(free_gib, quantization, slots, context, has_pages=True)
    planned = fit_slots(FLASH, wanted)
    assert planned.slots == slots
    a_page = planned.cache_bytes // planned.pages
    assert a_page == 64 * CACHE.bytes_per_token
    if planned.fits and planned.pages < slots * pages_for(context) + 1:
        assert planned.needed_bytes + a_page > wanted.free_bytes
    if not planned.fits:
        assert planned.pages == pages_for(context) + 1
    assert (fit(wanted).status == Status.PROBLEM) is not planned.fits


@given(
    free_gib=st.floats(1, 200),
    slots=st.integers(1, 64),
    context=st.integers(64, 131_072),
    quantization=st.sampled_from([UNQUANTIZED, NF4, INT8, NF4_ALL]),
)
def test_what_is_planned_fits_and_one_slot_more_would_not(
    free_gib: float, slots: int, context: int, quantization: Quantization
):
    wanted = demand(free_gib, quantization, slots, context)
    planned = fit_slots(FLASH, wanted)
    assert 1 <= planned.slots <= slots
    a_slot = planned.cache_bytes // planned.slots
    if planned.fits and planned.slots < slots:
        assert planned.needed_bytes + a_slot > wanted.free_bytes
    if not planned.fits:
        assert planned.slots == 1
    finding = fit(wanted)
    assert (finding.status == Status.PROBLEM) is not planned.fits


@given(free_gib=st.floats(7, 40), slots=st.integers(1, 64), has_pages=st.booleans())
def test_every_context_that_is_advised_fits(free_gib: float, slots: int, has_pages: bool):
    wanted = demand(free_gib, NF4, slots, 131_072, has_pages=has_pages)
    remedy = fit(wanted).remedy.replace(".", " ").replace(";", " ").split()
    if "--context" in remedy:
        context = int(remedy[remedy.index("--context") + 1])
        alone = "--slots" in remedy or has_pages
        advised = replace(wanted, context_tokens=context, slots=1 if alone else slots)
        assert fit_slots(FLASH, advised).slots == advised.slots
        assert fit_slots(FLASH, advised).fits
