"""docs/values.md, which docs/generate.py writes, lists every value of the chart, and says who needs it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.chart.render import CHART, ROOT

pytestmark = pytest.mark.chart


def names(values: dict[str, Any], path: str = "") -> set[str]:
    """Every value that is not an object with values of its own."""
    found = set()
    for name, value in values.items():
        inner = names(value, f"{path}{name}.") if isinstance(value, dict) else set()
        found |= inner or {f"{path}{name}"}
    return found


def test_every_value_is_in_the_page_by_itself_or_with_the_object_that_it_is_written_in() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| .* \| .* \| (.+) \|$", (ROOT / "docs/values.md").read_text(), re.MULTILINE)
    listed = {name for name, _ in rows}
    assert all(who for _, who in rows)
    for name in names(yaml.safe_load((CHART / "values.yaml").read_text())):
        assert any(name == each or name.startswith(f"{each}.") for each in listed), name
