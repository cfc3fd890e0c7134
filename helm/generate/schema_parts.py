"""Parts of values.schema.json: kinds of values, and objects that refuse other names."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
FREE: Schema = {"type": "object"}  # Kubernetes objects, which the API server validates
PERCENT: Schema = {"type": "integer", "minimum": 0, "maximum": 100}
# helm's --set makes a string of 0.5, so numbers that may be fractions are also taken as strings.
NUMBER: Schema = {"type": ["number", "string"], "pattern": "^[0-9]*\\.?[0-9]+$", "minimum": 0}
# As numbers, or as Kubernetes writes a part of a CPU: 500m.
CPUS: Schema = {"type": ["number", "string"], "pattern": "^([0-9]*\\.?[0-9]+|[0-9]+m)$", "minimum": 0}
POSITIVE: Schema = {"type": ["number", "string"], "pattern": "^0*\\.?0*[1-9][0-9]*(\\.[0-9]+)?$", "exclusiveMinimum": 0}
FRACTION: Schema = {
    "type": ["number", "string"],
    "pattern": "^(0?\\.[0-9]*[1-9][0-9]*|1)$",
    "exclusiveMinimum": 0,
    "maximum": 1,
}
SECONDS = NUMBER
LABEL: Schema = {"type": "string", "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"}
STRINGS: Schema = {"type": "object", "additionalProperties": TEXT}
AMOUNT: Schema = {"type": ["string", "number"]}  # of a resource; _checks_resources.tpl says what is wrong with one
STORAGE_CLASS: Schema = {"type": ["string", "null"]}
LABELS: Schema = {"type": "object", "additionalProperties": LABEL}  # _checks_pods.tpl checks their names
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def only(**properties: Schema) -> Schema:
    """An object with these properties and no other."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def with_null(schema: Schema) -> Schema:
    """The schema, and that of all its properties that are not required, with null: what is null has its default.

    So it is in the objects of lists, where null is what is absent; the objects themselves are there.
    """
    made = dict(schema)
    if "properties" in schema.get("items", {}):
        items = schema["items"]
        made["items"] = {**with_null(items), "type": items["type"]}
    if "properties" in schema:
        required = schema.get("required", ())
        made["properties"] = {
            name: each if name in required else with_null(each) for name, each in schema["properties"].items()
        }
    if "enum" in schema:
        made["enum"] = [*schema["enum"], None]
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        made["type"] = [*kinds, *({"null"} - set(kinds))]
    return made


def some(**properties: Schema) -> Schema:
    """An object with these properties and any others."""
    return {"type": "object", "properties": properties}


def one_of(*words: str) -> Schema:
    return {"enum": list(words)}


def integer(least: int) -> Schema:
    return {"type": "integer", "minimum": least}


def count(least: int) -> Schema:
    """Minimum and maximum of a number of replicas or pods."""
    return {**only(min=integer(least), max=integer(1)), "required": ["min", "max"]}


def objects(least: int = 0) -> Schema:
    return {"type": "array", "items": FREE, "minItems": least}


def ports() -> Schema:
    return {"type": "array", "items": PORT, "minItems": 1}


def texts() -> Schema:
    return {"type": "array", "items": TEXT}


def key_of_secret() -> Schema:
    return only(name=TEXT, key={"type": "string", "minLength": 1})


def tolerations() -> Schema:
    """As in a pod's spec: `value: true` without quotes is a mistake that only pods would show."""
    return {
        "type": "array",
        "items": only(
            key=TEXT,
            operator=one_of("Exists", "Equal", "Lt", "Gt", ""),
            value=LABEL,
            effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute", ""),
            tolerationSeconds={"type": "integer"},
        ),
    }


def peers(least: int = 0) -> Schema:
    """Peers of a NetworkPolicy; one without anything is refused by the API server."""
    selector = some(matchLabels={"type": "object", "additionalProperties": LABEL}, matchExpressions=objects())
    block = {
        **some(cidr={"type": "string", "pattern": "^[0-9A-Fa-f.:]+/[0-9]{1,3}$"}, **{"except": texts()}),
        "required": ["cidr"],
    }
    peer = {**only(podSelector=selector, namespaceSelector=selector, ipBlock=block), "minProperties": 1}
    return {"type": "array", "items": peer, "minItems": least}


def egress_rules() -> Schema:
    """Rules of a NetworkPolicy."""
    return {"type": "array", "items": only(to=peers(), ports=objects())}
