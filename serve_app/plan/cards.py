"""Graphics cards by name: memory, bandwidth and arithmetic as their makers state them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serve_app.errors import InvalidRequest

GB: Final = 10**9


@dataclass(frozen=True, slots=True)
class Card:
    """One card on paper; what of it is reached in practice stands in `measured`."""

    name: str
    memory_bytes: int
    bandwidth_gb_s: float
    tensor_tflops: (
        float  # bfloat16 (float16 where there is none), dense: without the structured sparsity of data sheets
    )
    sms: int  # streaming multiprocessors
    clock_ghz: float  # boost
    source: str
    bfloat16: bool = True

    @property
    def sm_ghz(self) -> float:
        """Plain instructions per second, up to a factor: what unpacking 4-bit weights is bound by."""
        return self.sms * self.clock_ghz


def _card(
    name: str,
    gb: int,
    bandwidth_gb_s: float,
    tflops: float,
    sms: int,
    clock_ghz: float,
    source: str,
    bfloat16: bool = True,
) -> Card:
    return Card(name, gb * GB, bandwidth_gb_s, tflops, sms, clock_ghz, source, bfloat16)


# Memory in decimal gigabytes, which is no more than any of them really has.
KNOWN: Final = (
    _card("T4", 16, 320, 65, 40, 1.59, "NVIDIA T4 data sheet; Turing white paper", bfloat16=False),
    _card("L4", 24, 300, 121, 58, 2.04, "NVIDIA L4 data sheet"),
    _card("A10", 24, 600, 125, 72, 1.695, "NVIDIA A10 data sheet"),
    _card("A10G", 24, 600, 70, 72, 1.71, "NVIDIA A10G figures of the AWS G5 page"),
    _card("A30", 24, 933, 165, 56, 1.44, "NVIDIA A30 data sheet"),
    _card("RTX 3090", 24, 936, 71, 82, 1.695, "NVIDIA GA102 white paper"),
    _card("RTX 4090", 24, 1008, 165.2, 128, 2.52, "NVIDIA Ada white paper"),
    _card("RTX 5090", 32, 1792, 209.5, 170, 2.407, "NVIDIA RTX Blackwell white paper"),
    _card("L20", 48, 864, 119.5, 92, 2.52, "NVIDIA L20 data sheet"),
    _card("L40S", 48, 864, 362, 142, 2.52, "NVIDIA L40S data sheet"),
    _card("RTX 6000 Ada", 48, 960, 364.2, 142, 2.505, "NVIDIA Ada white paper"),
    _card("A100 40GB", 40, 1555, 312, 108, 1.41, "NVIDIA A100 data sheet"),
    _card("A100 80GB", 80, 2039, 312, 108, 1.41, "NVIDIA A100 data sheet (SXM)"),
    _card("H20", 96, 4000, 148, 78, 1.98, "NVIDIA H20 data sheet"),
    _card("H100 PCIe", 80, 2000, 756, 114, 1.755, "NVIDIA H100 data sheet"),
    _card("H100 SXM", 80, 3350, 989, 132, 1.98, "NVIDIA H100 data sheet"),
    _card("H200", 141, 4800, 989, 132, 1.98, "NVIDIA H200 data sheet"),
    _card("B200", 180, 7700, 2250, 148, 1.965, "NVIDIA B200 data sheet"),
)


def card_named(name: str) -> Card:
    """The known card of this name, however it is written; InvalidRequest lists those there are."""
    for card in KNOWN:
        if _plain(card.name) == _plain(name):
            return card
    raise InvalidRequest(
        f"no card {name!r} is known; known are {', '.join(card.name for card in KNOWN)}; for others give"
        " --gpu-memory-gib, --gpu-bandwidth-gb-s, --gpu-tflops and --gpu-sms",
        param="--gpu",
    )


def _plain(name: str) -> str:
    letters = "".join(letter for letter in name.lower() if letter.isalnum())
    return letters.removeprefix("nvidia").removeprefix("geforce").removeprefix("tesla")
