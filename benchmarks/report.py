"""Parts of a benchmark's JSON report: date, commit, machine, package versions, percentiles; writing it to results/."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def header(benchmark: str, packages: Sequence[str]) -> dict[str, Any]:
    """The fields that every report begins with; `packages` are distribution names."""
    return {
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of at least one value, interpolated between the nearest two."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def save(report: dict[str, Any], suffix: str = "") -> Path:
    """Write results/<benchmark>-<date><suffix>.json."""
    path = RESULTS / f"{report['benchmark']}-{report['date']}{suffix}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path


def _commit() -> str:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return git.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
