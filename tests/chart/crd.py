"""Custom resources against their definitions, strictly and with defaults, as the API server does.

In its order: nulls go, defaults come, unknown fields and wrong values are refused, then the rules written in CEL are
asked. Source: kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions (structural
schemas, strict field validation).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.validators import extend

from tests.chart.cel import Rule, rules_of, verdicts
from tests.chart.render import Object

FOLDER = Path(__file__).parent / "crds"
Schema = dict[str, Any]

_LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_METADATA: Schema = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253},
        "namespace": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "labels": {
            "type": "object",
            "additionalProperties": {"type": "string", "pattern": _LABEL_VALUE, "maxLength": 63},
        },
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

FORMATS = jsonschema.FormatChecker(formats=())
_DURATION = re.compile(
    r"([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d|w))+"
)  # Go's, and days and weeks as go-openapi takes them


@FORMATS.checks("int32")
def _is_int32(value: object) -> bool:
    return not isinstance(value, int) or -(2**31) <= value < 2**31


@FORMATS.checks("int64")
def _is_int64(value: object) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**63


@FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@FORMATS.checks("duration")
def _is_duration(value: object) -> bool:
    return not isinstance(value, str) or _DURATION.fullmatch(value) is not None


def _unique_keys(_: Any, keys: list[str], instance: Any, __: Schema) -> Iterator[jsonschema.ValidationError]:
    """x-kubernetes-list-map-keys: no two items of a list agree in all of them."""
    seen: set[tuple[str, ...]] = set()
    for item in instance if isinstance(instance, list) else ():
        key = tuple(json.dumps(item.get(each)) for each in keys) if isinstance(item, dict) else ()
        if key in seen:
            yield jsonschema.ValidationError(f"two items have {', '.join(keys)} = {', '.join(key)}")
        seen.add(key)


def _unique_items(_: Any, kind: str, instance: Any, __: Schema) -> Iterator[jsonschema.ValidationError]:
    """x-kubernetes-list-type: a set holds nothing twice."""
    items = [json.dumps(item, sort_keys=True) for item in instance] if isinstance(instance, list) else []
    if kind == "set" and len(set(items)) < len(items):
        yield jsonschema.ValidationError("an item is there twice")


_Validator = extend(
    jsonschema.Draft202012Validator,
    {"x-kubernetes-list-map-keys": _unique_keys, "x-kubernetes-list-type": _unique_items},
)


@lru_cache
def definitions() -> dict[tuple[str, str], Schema]:
    """The schema of each stored definition, by apiVersion and kind."""
    stored = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    return {(f"{each['group']}/{each['version']}", each["kind"]): each["schema"] for each in stored}


@lru_cache
def _checks(api_version: str, kind: str) -> tuple[Any, list[Rule]]:
    schema = definitions()[api_version, kind]
    root = copy.deepcopy(schema)
    root["properties"]["metadata"] = _METADATA
    return _Validator(strict(root), format_checker=FORMATS), rules_of(schema)


def problems(resource: Object, old: Object | None = None) -> list[str]:
    """What the API server would refuse: empty where it takes the resource; KeyError where its kind isn't stored.

    With `old`, the resource is an update of it, and rules on the change are asked too.
    """
    name = resource["apiVersion"], resource["kind"]
    validator, rules = _checks(*name)
    schema = definitions()[name]
    admitted = defaulted(resource, schema)
    broken = [
        f"{'.'.join(map(str, error.absolute_path)) or '(root)'}: {error.message[:300]}"
        for error in validator.iter_errors(admitted)
    ]
    if broken:
        return broken
    return verdicts(rules, admitted, defaulted(old, schema) if old else None)


def strict(schema: Schema) -> Schema:
    """The schema as JSON Schema that refuses unknown fields, except where the definition keeps them."""
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        made["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if schema.get("nullable"):
        kinds = made.get("type", [])
        made["type"] = [*(kinds if isinstance(kinds, list) else [kinds]), "null"]
    return made


def defaulted(value: Any, schema: Schema) -> Any:
    """A copy with nulls dropped where they aren't allowed, then with defaults where a field is missing."""
    if isinstance(value, list):
        return [defaulted(each, schema.get("items") or {}) for each in value]
    if not isinstance(value, dict):
        return copy.deepcopy(value)
    properties: Schema = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    rest: Schema = others if isinstance(others, dict) else {}
    made = {
        name: defaulted(each, properties.get(name, rest))
        for name, each in value.items()
        if each is not None or properties.get(name, rest).get("nullable")
    }
    for name, each in properties.items():
        if name not in made and "default" in each:
            made[name] = defaulted(each["default"], each)
    return made
