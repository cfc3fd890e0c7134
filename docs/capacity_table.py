"""Writes the table of docs/capacity.md: GPU time for 1,000 requests, by card, from the arithmetic of `glm-serve plan`.

python docs/capacity_table.py            write it
python docs/capacity_table.py --check    exit 1 if the page says something else
"""

from __future__ import annotations

import sys
from pathlib import Path

from serve_app.plan.cards import Card, card_named
from serve_app.plan.checkpoints import Checkpoint, checkpoint
from serve_app.plan.choice import Load, Plan, plan
from serve_app.plan.measured import is_measured

PAGE = Path(__file__).with_name("capacity.md")
START, END = "<!-- table: written by docs/capacity_table.py -->\n", "<!-- end of table -->\n"
CARDS = ("T4", "L4", "A10", "RTX 3090", "RTX 4090", "L40S", "A100 80GB", "H20", "H100 SXM", "H200", "B200")
KINDS = (  # (picture, answer tokens)
    ((640, 480), 50),
    ((1120, 1120), 128),
    ((1920, 1080), 300),
)
PATIENT_S = 600.0  # what a card does at its limit, whoever waits
MANY_PER_S = 10_000.0


def table() -> str:
    flash = checkpoint("zai-org/GLM-4.6V-Flash")
    head = [f"{width} x {height}, {answer} tokens" for (width, height), answer in KINDS]
    lines = [["card", "weights", *head, "basis"], ["---"] * (3 + len(KINDS))]
    for name in CARDS:
        plans = [_plan(flash, card_named(name), *kind) for kind in KINDS]
        held = {made.quantization.kind for made in plans}
        measured = all(is_measured(name, flash.model_type, made.quantization) for made in plans)
        figures = [f"{1e3 / made.replica.limit(made.slots):,.0f}" for made in plans]
        lines.append([name, " or ".join(sorted(held)), *figures, "measured on it" if measured else "estimate"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plan(model: Checkpoint, card: Card, picture: tuple[int, int], answer: int) -> Plan:
    """The one that takes the fewest cards for a load that takes many."""
    return plan(model, card, Load(MANY_PER_S, (picture,), 100, answer, PATIENT_S))


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}{table()}{END}{after}"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if page() == PAGE.read_text(encoding="utf-8") else "docs/capacity.md: python docs/capacity_table.py")
    PAGE.write_text(page(), encoding="utf-8")
