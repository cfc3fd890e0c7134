"""Writes the table of docs/capacity.md: GPU time for 1,000 requests, by card, by the estimates of `glm-serve plan`.

python docs/capacity_table.py            write it
python docs/capacity_table.py --check    exit 1 if the page differs
"""

from __future__ import annotations

import sys
from pathlib import Path

from serve_app.plan.capacity_plan import Load, plan_capacity
from serve_app.plan.cards import card_named
from serve_app.plan.checkpoints import read_checkpoint
from serve_app.plan.measured import is_measured

PAGE = Path(__file__).with_name("capacity.md")
START, END = "<!-- table: written by docs/capacity_table.py -->\n", "<!-- end of table -->\n"
CARDS = ("T4", "L4", "A10", "RTX 3090", "RTX 4090", "L40S", "A100 80GB", "H20", "H100 SXM", "H200", "B200")
KINDS = (  # (picture, answer tokens)
    ((640, 480), 50),
    ((1120, 1120), 128),
    ((1920, 1080), 300),
)
TEXT_TOKENS = 100


def table() -> str:
    flash = read_checkpoint("zai-org/GLM-4.6V-Flash")
    head = [f"{width} x {height}, {answer} tokens" for (width, height), answer in KINDS]
    lines = [["card", "weights", *head, "basis"], ["---"] * (3 + len(KINDS))]
    for name in CARDS:
        loads = [Load(1, (picture,), TEXT_TOKENS, answer) for picture, answer in KINDS]
        plans = [plan_capacity(flash, card_named(name), load) for load in loads]
        formats = {plan.gpu_time.quantization for plan in plans}
        measured = all(is_measured(name, flash.family.name, kind) for kind in formats)
        figures = [f"{1e3 * plan.request_s:,.0f}" for plan in plans]
        kinds = " or ".join(sorted({kind.kind for kind in formats}))
        lines.append([name, kinds, *figures, "measured on it" if measured else "estimate"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}{table()}{END}{after}"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if page() == PAGE.read_text(encoding="utf-8") else "docs/capacity.md: python docs/capacity_table.py")
    PAGE.write_text(page(), encoding="utf-8")
