"""JSON types that the JSON Schema of a tool allows for each of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonTypes: TypeAlias = frozenset[str] | None  # names of JSON types; None: not restricted

_BY_CLASS: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def argument_types(parameters: Mapping[str, Any]) -> dict[str, JsonTypes]:
    """The JSON types of each argument in `properties` of the schema of an arguments object."""
    owner = resolve_reference(parameters, parameters)
    properties = owner.get("properties") if isinstance(owner, Mapping) else None
    if not isinstance(properties, Mapping):
        return {}
    resolved: dict[str, JsonTypes] = {}  # by reference, so that cycles end
    return {key: allowed_types(schema, parameters, resolved) for key, schema in properties.items()}


def json_type(value: Any) -> str:
    """The JSON type of a parsed value; an int is an integer."""
    return _BY_CLASS[type(value)]


def resolve_reference(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema that local references (`#/…`, RFC 6901) lead to; one that cannot be resolved is returned as it is."""
    seen: set[str] = set()
    while isinstance(schema, Mapping) and set(schema) == {"$ref"}:
        reference = schema["$ref"]
        if not isinstance(reference, str) or not reference.startswith("#") or reference in seen:
            break
        seen.add(reference)
        target: Any = root
        for step in reference[1:].split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or step not in target:
                return schema
            target = target[step]
        schema = target
    return schema


def allowed_types(schema: Any, root: Mapping[str, Any], resolved: dict[str, JsonTypes]) -> JsonTypes:
    """The JSON types that a schema within `root` allows; `resolved` collects those of references."""
    if schema is False:
        return frozenset()
    if not isinstance(schema, Mapping):
        return None
    limits: list[JsonTypes] = []
    if isinstance(reference := schema.get("$ref"), str):
        if reference not in resolved:
            resolved[reference] = None
            target = resolve_reference({"$ref": reference}, root)
            if target != {"$ref": reference}:
                resolved[reference] = allowed_types(target, root, resolved)
        limits.append(resolved[reference])
    if isinstance(declared := schema.get("type"), (str, list)):
        limits.append(frozenset([declared] if isinstance(declared, str) else map(str, declared)))
    if isinstance(values := schema.get("enum"), list):
        limits.append(frozenset(map(json_type, values)))
    if "const" in schema:
        limits.append(frozenset([json_type(schema["const"])]))
    for key in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(key), list):
            limits.append(_union([allowed_types(choice, root, resolved) for choice in choices]))
    if isinstance(parts := schema.get("allOf"), list):
        limits.extend(allowed_types(part, root, resolved) for part in parts)
    known = [limit | {"integer"} if "number" in limit else limit for limit in limits if limit is not None]
    return frozenset.intersection(*known) if known else None


def _union(types: list[JsonTypes]) -> JsonTypes:
    known = [some for some in types if some is not None]
    return frozenset().union(*known) if len(known) == len(types) else None
