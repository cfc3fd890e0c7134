"""The table of docs/capacity.md is what the plan's arithmetic gives."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_the_page_is_up_to_date():
    checked = [sys.executable, "docs/capacity_table.py", "--check"]
    ended = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_the_measured_rates_and_times_of_the_page_are_those_of_the_results():
    page, results = (ROOT / "docs/capacity.md").read_text(), ROOT / "benchmarks/results"
    rows = []
    for name, file in (
        ("unquantized", "capacity-2026-11-30-vllm-later.json"),
        ("fp8", "capacity-2026-11-30-fp8-tiles.json"),
    ):
        rounds = json.loads((results / file).read_text())["servers"]["ours"]["rounds"]
        rates = {each["callers"]: f"{each['requests_per_s']:.2f}" for each in rounds}
        rows.append([name, *(rates.get(callers, "") for callers in (1, 8, 32, 64))])
    engine = json.loads((results / "engine-2026-11-30-later.json").read_text())
    unquantized = json.loads((results / "engine-2026-11-30-tiles.json").read_text())
    for name, measured in (("unquantized", unquantized), ("fp8", engine["fp8"]), ("nf4", engine["nf4"])):
        batches = measured["batches"]
        steps = (f"{batches[n]['ms_per_step']:.2f}" if n in batches else "" for n in ("1", "8", "32", "64"))
        rows.append([name, f"{1e3 * batches['1']['first_token_s']:.0f}", *steps])
    for row in rows:
        line = "|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|"
        assert line in page, line
