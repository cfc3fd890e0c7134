"""The table of docs/capacity.md is what the plan's arithmetic gives."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_the_page_is_up_to_date():
    checked = [sys.executable, "docs/capacity_table.py", "--check"]
    ended = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
