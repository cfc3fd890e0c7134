"""Graphics cards by name: memory, bandwidth and tensor rate from their data sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serve_app.engine.model.kernels import LEAST_CAPABILITY
from serve_app.engine.model.quantization import FP8_CAPABILITY
from serve_app.errors import InvalidRequest

GB: Final = 10**9


@dataclass(frozen=True, slots=True)
class Card:
    """The figures of a card's data sheet."""

    name: str
    memory_bytes: int
    bandwidth_gb_s: float
    tensor_tflops: float  # bfloat16 (float16 where the card has no bfloat16), dense: without structured sparsity
    sms: int  # streaming multiprocessors
    clock_ghz: float  # boost
    capability: tuple[int, int]  # compute capability
    source: str

    @property
    def bfloat16(self) -> bool:
        return self.capability >= (8, 0)

    @property
    def fp8(self) -> bool:
        return self.capability >= FP8_CAPABILITY

    @property
    def has_pages(self) -> bool:
        """Whether the engine keeps keys and values in pages; older cards run the library's modules over slots."""
        return self.capability >= LEAST_CAPABILITY

    @property
    def captures_pieces(self) -> bool:
        """Whether steps with pieces of prompts are replayed as graphs instead of launched kernel by kernel."""
        return self.capability[0] == 9


# Memory in decimal gigabytes: no card has less than that.
KNOWN: Final = (
    Card("T4", 16 * GB, 320, 65, 40, 1.59, (7, 5), "NVIDIA T4 data sheet; Turing white paper"),
    Card("L4", 24 * GB, 300, 121, 58, 2.04, (8, 9), "NVIDIA L4 data sheet"),
    Card("A10", 24 * GB, 600, 125, 72, 1.695, (8, 6), "NVIDIA A10 data sheet"),
    Card("A10G", 24 * GB, 600, 70, 72, 1.71, (8, 6), "NVIDIA A10G figures of the AWS G5 page"),
    Card("A30", 24 * GB, 933, 165, 56, 1.44, (8, 0), "NVIDIA A30 data sheet"),
    Card("RTX 3090", 24 * GB, 936, 71, 82, 1.695, (8, 6), "NVIDIA GA102 white paper"),
    Card("RTX 4090", 24 * GB, 1008, 165.2, 128, 2.52, (8, 9), "NVIDIA Ada white paper"),
    Card("RTX 5090", 32 * GB, 1792, 209.5, 170, 2.407, (12, 0), "NVIDIA RTX Blackwell white paper"),
    Card("L20", 48 * GB, 864, 119.5, 92, 2.52, (8, 9), "NVIDIA L20 data sheet"),
    Card("RTX 4090 D", 24 * GB, 1008, 147.1, 114, 2.52, (8, 9), "NVIDIA Ada white paper, by its 114 multiprocessors"),
    Card("A40", 48 * GB, 696, 149.7, 84, 1.74, (8, 6), "NVIDIA A40 data sheet"),
    Card("L40S", 48 * GB, 864, 362, 142, 2.52, (8, 9), "NVIDIA L40S data sheet"),
    Card("RTX 6000 Ada", 48 * GB, 960, 364.2, 142, 2.505, (8, 9), "NVIDIA Ada white paper"),
    Card("A100 40GB", 40 * GB, 1555, 312, 108, 1.41, (8, 0), "NVIDIA A100 data sheet"),
    Card("A100 80GB", 80 * GB, 2039, 312, 108, 1.41, (8, 0), "NVIDIA A100 data sheet (SXM)"),
    Card(
        "A800", 80 * GB, 2039, 312, 108, 1.41, (8, 0), "NVIDIA A100 data sheet (SXM); the A800 has slower NVLink only"
    ),
    Card("H20", 96 * GB, 4000, 148, 78, 1.98, (9, 0), "NVIDIA H20 data sheet"),
    Card("H100 PCIe", 80 * GB, 2000, 756, 114, 1.755, (9, 0), "NVIDIA H100 data sheet"),
    Card("H100 SXM", 80 * GB, 3350, 989, 132, 1.98, (9, 0), "NVIDIA H100 data sheet"),
    Card(
        "H800", 80 * GB, 3350, 989, 132, 1.98, (9, 0), "NVIDIA H100 data sheet (SXM); the H800 has slower NVLink only"
    ),
    Card("H200", 141 * GB, 4800, 989, 132, 1.98, (9, 0), "NVIDIA H200 data sheet"),
    Card("B200", 180 * GB, 7700, 2250, 148, 1.965, (10, 0), "NVIDIA B200 data sheet"),
)


def card_named(name: str) -> Card:
    """Return the known card of this name; case, spaces, "NVIDIA" and "RTX" do not matter. Raises InvalidRequest."""
    for card in KNOWN:
        if _normalized(card.name) == _normalized(name):
            return card
    raise InvalidRequest(
        f"The card {name!r} is unknown. Known cards are {', '.join(card.name for card in KNOWN)}."
        " Describe any other card with --gpu-memory-gib, --gpu-bandwidth-gb-s, --gpu-tflops and --gpu-sms.",
        param="--gpu",
    )


def _normalized(name: str) -> str:
    letters = "".join(letter for letter in name.lower() if letter.isalnum())
    return letters.removeprefix("nvidia").removeprefix("geforce").removeprefix("tesla").removeprefix("rtx")
