"""Writes the chart's generated files: schema, Ray's environment, default settings and values, dashboards.

python helm/generate            write the files
python helm/generate --check    exit 1 if one is out of date
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

CHART = Path(__file__).parents[1]
MODULES = ("environment", "schema", "defaults", "dashboards")  # each has files() -> {path within the chart: text}


def generated() -> dict[Path, str]:
    """Absolute path -> text of all generated files."""
    files: dict[Path, str] = {}
    for name in MODULES:
        if Path(__file__).with_name(f"{name}.py").exists():
            files.update(importlib.import_module(name).files())
    return {CHART / path: text for path, text in files.items()}


def main(arguments: list[str]) -> int:
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(CHART.parent)} is out of date. Run `python helm/generate`.")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(generated()[path])
        print(f"wrote {path.relative_to(CHART.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
