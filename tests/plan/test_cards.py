"""Cards by name, as people write them."""

import pytest

from serve_app.errors import InvalidRequest
from serve_app.plan.cards import GB, KNOWN, card_named


@pytest.mark.parametrize("written", ["L4", "l4", "NVIDIA L4", "nvidia-l4"])
def test_a_card_is_found_however_it_is_written(written: str):
    assert card_named(written).name == "L4"


@pytest.mark.parametrize("written", ["GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "rtx4090", "RTX-4090", "4090"])
def test_a_consumer_card_needs_no_family_name(written: str):
    assert card_named(written).name == "RTX 4090"


@pytest.mark.parametrize("written", ["A800", "H800", "4090D", "RTX 4090D", "A40"])
def test_cards_that_are_sold_in_china_and_the_a40_are_known(written: str):
    assert card_named(written).memory_bytes >= 24 * GB


def test_the_refusal_of_an_unknown_card_lists_the_known_ones():
    with pytest.raises(InvalidRequest, match=r"card 'TPU v5e' is unknown. Known cards are T4, L4, .*--gpu-memory-gib"):
        card_named("TPU v5e")


def test_names_are_unique_and_every_card_has_a_source():
    assert len({card.name for card in KNOWN}) == len(KNOWN)
    assert all(card.source and card.memory_bytes and card.bandwidth_gb_s and card.tensor_tflops for card in KNOWN)


def test_no_rate_is_one_with_sparsity():
    """A dense product does at most 4,096 operations a cycle and multiprocessor (Hopper), 8,192 from Blackwell on."""
    for card in KNOWN:
        a_cycle = card.tensor_tflops * 1e12 / (card.sms * card.clock_ghz * 1e9)
        assert a_cycle < (8500 if card.name == "B200" else 4300), card.name


@pytest.mark.parametrize(
    ("name", "fp8", "pages", "bfloat16"),
    [
        ("T4", False, False, False),
        ("A100 80GB", False, True, True),
        ("L4", True, True, True),
        ("B200", True, True, True),
    ],
)
def test_what_a_card_runs_follows_from_its_compute_capability(name: str, fp8: bool, pages: bool, bfloat16: bool):
    card = card_named(name)
    assert (card.fp8, card.has_pages, card.bfloat16) == (fp8, pages, bfloat16)
