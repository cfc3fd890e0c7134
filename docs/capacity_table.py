"""Writes the tables of docs/capacity.md: GPU time for 1,000 requests by card, and what was measured on several GPUs.

The first by the estimates of `glm-serve plan`, the second from benchmarks/results/capacity-*-gpus*.json.

python docs/capacity_table.py            write it
python docs/capacity_table.py --check    exit 1 if the page differs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from serve_app.plan.capacity_plan import Load, plan_capacity
from serve_app.plan.cards import card_named
from serve_app.plan.checkpoints import read_checkpoint
from serve_app.plan.measured import is_measured

PAGE = Path(__file__).with_name("capacity.md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
START, END = "<!-- table: written by docs/capacity_table.py -->\n", "<!-- end of table -->\n"
GPUS_START = "<!-- several GPUs: written by docs/capacity_table.py -->\n"
GPUS_HEAD = (
    "GPUs, ingress",
    "callers",
    "requests/s",
    "first token p50, p95, s",
    "conversations: requests/s",
    "prompt tokens from pages",
    "result",
)
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
        lines.append([name, kinds, *figures, "calculated from measurements on it" if measured else "estimate"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def several_gpus() -> str:
    """A row for each service of each result: what was measured, with a dash for parts that were not."""
    lines = []
    for file in sorted(RESULTS.glob("capacity-*-gpus*.json")):
        for service in json.loads(file.read_text(encoding="utf-8"))["services"]:
            load, talk = service.get("load"), service.get("follow_ups")
            figures = ["-"] * 5
            if load is not None:
                first = load["first_token_s"]
                figures[:3] = [
                    str(load["callers"]),
                    f"{load['requests_per_s']:.2f}",
                    f"{first['p50']:.2f}, {first['p95']:.2f}",
                ]
            if talk is not None:
                figures[3:] = [f"{talk['requests_per_s']:.2f}", f"{talk['prefix_share']:.1%}"]
            link = f"[result](../benchmarks/results/{file.name})"
            lines.append([f"{service['gpus']}, {service['way']}", *figures, link])
    if not lines:
        return "Not measured yet with this engine.\n"
    return "".join(f"| {' | '.join(line)} |\n" for line in (GPUS_HEAD, ["---"] * len(GPUS_HEAD), *lines))


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    for start, written in ((START, table()), (GPUS_START, several_gpus())):
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(END)
        text = f"{before}{start}{written}{END}{after}"
    return text


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if page() == PAGE.read_text(encoding="utf-8") else "docs/capacity.md: python docs/capacity_table.py")
    PAGE.write_text(page(), encoding="utf-8")
