"""Check of a caller's JSON Schema before it becomes a grammar: keyword types, depth, rings of references.

llguidance reports some of these errors without a place, and others only when a token is sampled. Here each error names
the path of the keyword. Source of the keywords: JSON Schema 2020-12, core and validation; `definitions`, lists in
`items` and booleans in `exclusiveMinimum` are older forms that llguidance accepts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from serve_app.errors import InvalidRequest

MAX_DEPTH: Final = 100  # schemas within schemas
_SHOWN_CHARACTERS = 80  # of a value, and of a path, in an error

_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_COUNTS = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"}
)
_NUMBERS = frozenset({"minimum", "maximum", "multipleOf"})
_EXCLUSIVE = frozenset({"exclusiveMinimum", "exclusiveMaximum"})
_STRINGS = frozenset({"pattern", "format", "$ref", "$dynamicRef"})
_SCHEMAS = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_SCHEMA_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_IN_PLACE = ("not", "if", "then", "else", "allOf", "anyOf", "oneOf")  # apply to the same value, as `$ref` does


def check_schema(schema: Any, param: str, subject: str = "") -> Any:
    """A copy of a schema that a grammar can be made of.

    In the copy, keywords that are null, repeated names in `type` and `required` and llguidance's own keyword
    `x-guidance` are left out, and counts such as 2.0 are integers. `subject` says in an error whose schema it is.
    Raises InvalidRequest for `param`, naming the path of the keyword.
    """
    check = _SchemaCheck(param, subject or param)
    checked = check.schema(schema, "", 0)
    check.references(checked)
    return checked


class _SchemaCheck:
    def __init__(self, param: str, subject: str) -> None:
        self._param = param
        self._subject = subject

    def schema(self, schema: Any, path: str, depth: int) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise self._error(path, "has to be a JSON Schema, an object", schema)
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"{self._subject} is nested too deeply: at most {MAX_DEPTH} levels.", self._param)
        return {
            keyword: self._keyword(keyword, value, f"{path}.{keyword}" if path else keyword, depth)
            for keyword, value in schema.items()
            if keyword != "x-guidance" and (value is not None or keyword in ("const", "default"))
        }

    def _keyword(self, keyword: str, value: Any, path: str, depth: int) -> Any:
        if keyword in _COUNTS:
            return self._count(value, path)
        if keyword in _SCHEMAS and not (keyword == "items" and isinstance(value, list)):
            return self.schema(value, path, depth + 1)
        if keyword in _SCHEMA_LISTS or keyword == "items":
            return self._schemas(keyword, value, path, depth)
        if keyword in _SCHEMA_MAPS:
            self._require(isinstance(value, Mapping), path, "has to be an object of schemas", value)
            return {name: self.schema(part, f"{path}.{name}", depth + 1) for name, part in value.items()}
        if keyword in _NUMBERS or (keyword in _EXCLUSIVE and not isinstance(value, bool)):
            self._require(_is_number(value), path, "has to be a number", value)
        elif keyword in _STRINGS:
            self._require(isinstance(value, str), path, "has to be a string", value)
        elif keyword == "type":
            return self._type(value, path)
        elif keyword == "enum":
            self._require(isinstance(value, list) and bool(value), path, "has to be a list of values", value)
        elif keyword == "required":
            self._require(_is_list_of_strings(value), path, "has to be a list of strings", value)
            return list(dict.fromkeys(value))
        elif keyword == "dependentRequired":
            valid = isinstance(value, Mapping) and all(map(_is_list_of_strings, value.values()))
            self._require(valid, path, "has to be an object of lists of strings", value)
        elif keyword == "uniqueItems":
            self._require(isinstance(value, bool), path, "has to be true or false", value)
        return value

    def _count(self, value: Any, path: str) -> int:
        valid = _is_number(value) and value >= 0 and value == int(value)
        self._require(valid, path, "has to be a whole number of at least 0", value)
        return int(value)

    def _schemas(self, keyword: str, value: Any, path: str, depth: int) -> list[Any]:
        valid = isinstance(value, list) and bool(value)
        self._require(valid, path, "has to be a list of schemas", value)
        return [self.schema(part, f"{path}[{index}]", depth + 1) for index, part in enumerate(value)]

    def _type(self, value: Any, path: str) -> Any:
        types = value if isinstance(value, list) else [value]
        valid = bool(types) and all(isinstance(name, str) and name in _TYPES for name in types)
        self._require(valid, path, f"has to be one of {', '.join(sorted(_TYPES))}, or a list of them", value)
        return list(dict.fromkeys(types)) if isinstance(value, list) else value

    def references(self, root: Any) -> None:
        """Refuse references that lead back to the same value, which no value or every value would match."""
        finished: set[int] = set()  # ids of schemas without a ring
        for start in _schemas_within(root):
            path: dict[int, Iterator[Any]] = {}  # the schemas that are being followed, innermost last
            pending: list[Any] = [start]
            while pending or path:
                if not pending:
                    current, rest = next(reversed(path.items()))
                    following = next(rest, None)
                    if following is None:
                        finished.add(current)
                        del path[current]
                        continue
                    pending.append(following)
                schema = pending.pop()
                if id(schema) in path:
                    reference = _cut(str(schema.get("$ref", "")))
                    raise InvalidRequest(
                        f"{self._subject}: the reference {reference!r} leads back to itself, without a property or "
                        "an item between.",
                        self._param,
                    )
                if id(schema) not in finished:
                    path[id(schema)] = iter(_same_value(schema, root))

    def _require(self, valid: bool, path: str, rule: str, value: Any) -> None:
        if not valid:
            raise self._error(path, rule, value)

    def _error(self, path: str, rule: str, value: Any) -> InvalidRequest:
        where = f"{self._subject}: {_cut(path)}" if path else self._subject
        return InvalidRequest(f"{where} {rule}, not {_cut(json.dumps(value, ensure_ascii=False))}.", self._param)


def _schemas_within(root: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a schema; those that are no schemas have no references."""
    pending = [root]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            yield part
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def _same_value(schema: Mapping[str, Any], root: Any) -> list[Mapping[str, Any]]:
    """The schemas that apply to the same value as this one."""
    found: list[Any] = []
    for keyword in _IN_PLACE:
        part = schema.get(keyword)
        found.extend(part if isinstance(part, list) else [part])
    if isinstance(reference := schema.get("$ref"), str):
        found.append(_target(reference, root))
    return [part for part in found if isinstance(part, Mapping)]


def _target(reference: str, root: Any) -> Any:
    """What a local reference (`#/…`, RFC 6901) leads to; None if it leads nowhere, which llguidance reports."""
    if not reference.startswith("#"):
        return None
    target = root
    for step in reference[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and step in target:
            target = target[step]
        elif isinstance(target, list) and step in map(str, range(len(target))):
            target = target[int(step)]
        else:
            return None
    return target


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


def _is_list_of_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # half a character (a lone surrogate) cannot be sent
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
