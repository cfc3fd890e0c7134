"""files/defaults.json: the defaults of values.yaml, which templates give back to values that are null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from schema import schema
from schema_parts import Schema

VALUES = Path(__file__).parents[1] / "values.yaml"
# Groups can be removed with null; the service has the defaults of its settings.
WITHOUT_DEFAULTS = ("workers", "settings")


def files() -> dict[Path, str]:
    values = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    for name in WITHOUT_DEFAULTS:
        del values[name]
    tree = schema()
    content = {"values": known(values), "removable": removable(values, tree)}
    return {Path("files/defaults.json"): json.dumps(content, indent=2, ensure_ascii=False) + "\n"}


def known(values: dict[str, Any]) -> dict[str, Any]:
    """The values without those whose default is null."""
    return {
        name: known(value) if isinstance(value, dict) else value for name, value in values.items() if value is not None
    }


def removable(values: dict[str, Any], section: Schema, place: str = "") -> list[str]:
    """The paths of lists and Kubernetes objects that are empty if they are null, as Helm means it."""
    paths = []
    for name, value in values.items():
        schema = section["properties"][name]
        path = f"{place}{name}"
        if isinstance(value, dict) and schema.get("additionalProperties") is False:
            paths += removable(value, schema, f"{path}.")
        elif isinstance(value, dict) or (isinstance(value, list) and not schema.get("minItems")):
            paths.append(path)
    return paths
