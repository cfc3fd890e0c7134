"""Runs a line of Python as another user; only root can."""

from __future__ import annotations

import subprocess
import sys

NOBODY = 65534


def run_as_nobody(line: str) -> subprocess.CompletedProcess[str]:
    become = f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); "
    return subprocess.run([sys.executable, "-I", "-c", become + line], capture_output=True, text=True, cwd="/")
