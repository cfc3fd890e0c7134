"""Makes the files of this folder: one version of a CustomResourceDefinition without its descriptions.

python -m tests.chart.crds.compact CRD.yaml VERSION > tests/chart/crds/NAME.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

_HOLDS_VALUES = ("default", "enum", "example")  # what stands here is data, not schema


def compact(definition: dict[str, Any], version: str) -> dict[str, Any]:
    """Group, kind, version and the schema of that version; StopIteration where the definition has no such version."""
    spec = definition["spec"]
    schema = next(each["schema"]["openAPIV3Schema"] for each in spec["versions"] if each["name"] == version)
    return {"group": spec["group"], "kind": spec["names"]["kind"], "version": version, "schema": undescribed(schema)}


def undescribed(schema: Any) -> Any:
    """The schema without descriptions; a property of the name `description` stays."""
    if isinstance(schema, list):
        return [undescribed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key != "description" or not isinstance(value, str)}
    for key, value in kept.items():
        if key == "properties":
            kept[key] = {name: undescribed(each) for name, each in value.items()}
        elif key not in _HOLDS_VALUES:
            kept[key] = undescribed(value)
    return kept


if __name__ == "__main__":
    source, version = sys.argv[1:]
    definition = yaml.load(Path(source).read_text(), Loader=yaml.CSafeLoader)
    sys.stdout.write(json.dumps(compact(definition, version), separators=(",", ":"), sort_keys=True) + "\n")
