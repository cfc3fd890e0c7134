"""The rules inside CustomResourceDefinitions (x-kubernetes-validations), evaluated with cel-python.

A rule stands at a place of the schema and is asked of every value at that place. Rules that name `oldSelf` are about a
change and are asked on an update only, of values that can be told apart: fields, and items of lists that have keys.
Source: kubernetes.io/docs/reference/using-api/cel and …/custom-resource-definitions#validation-rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import celpy
from celpy.evaluation import bool_ne

# What cel-python 0.5 can call. Kubernetes' own additions (quantity, isURL, optionals) are not among it.
KNOWN = frozenset(
    {"has", "all", "exists", "exists_one", "filter", "map", "size", "matches"}
    | {"startsWith", "endsWith", "contains", "duration"}
)
# Names that CEL keeps for itself: fields so named are written with underscores around (Kubernetes' own convention).
_RESERVED = frozenset(
    {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import"}
    | {"let", "loop", "package", "namespace", "return", "var", "void", "while"}
)
_ABSENT = object()
Schema = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule, and the way from the root to its place: field names, `[]` for items, `{}` for the values of a map."""

    path: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]  # for each `[]` on the path, by which fields its items are told apart
    expression: str
    message: str

    @property
    def is_about_a_change(self) -> bool:
        return re.search(r"\boldSelf\b", self.expression) is not None

    @property
    def calls(self) -> frozenset[str]:
        """The functions and macros that the expression calls."""
        outside_strings = re.sub(r'r?"""[\s\S]*?"""|\'[^\']*\'|"[^"]*"', "''", self.expression)
        return frozenset(re.findall(r"([A-Za-z_]\w*)\(", outside_strings)) - _RESERVED


def rules_of(schema: Schema) -> list[Rule]:
    """Every rule of a structural schema."""
    return list(_rules(schema, (), ()))


def _rules(schema: Schema, path: tuple[str, ...], keys: tuple[tuple[str, ...], ...]) -> Iterator[Rule]:
    for each in schema.get("x-kubernetes-validations") or ():
        yield Rule(path, keys, each["rule"], each.get("message", each["rule"]))
    for name, child in (schema.get("properties") or {}).items():
        yield from _rules(child, (*path, name), keys)
    if isinstance(schema.get("items"), dict):
        named = tuple(schema.get("x-kubernetes-list-map-keys") or ())
        yield from _rules(schema["items"], (*path, "[]"), (*keys, named))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _rules(schema["additionalProperties"], (*path, "{}"), keys)


def verdicts(rules: list[Rule], resource: Any, old: Any | None) -> list[str]:
    """What the rules say against a resource, defaults applied; against the change from `old` where it is given."""
    said = []
    for rule in rules:
        for place, value, before in _values(rule.path, rule.keys, resource, _ABSENT if old is None else old):
            if rule.is_about_a_change and before is _ABSENT:
                continue
            refused = _refusal(rule, value, before)
            if refused:
                said.append(f"{place}: {refused}")
    return said


def _refusal(rule: Rule, value: Any, before: Any) -> str | None:
    """None where the rule holds. A rule that fails to evaluate refuses, as the API server's does."""
    variables = {"self": celpy.json_to_cel(_escaped(value))}
    if before is not _ABSENT:
        variables["oldSelf"] = celpy.json_to_cel(_escaped(before))
    try:
        return None if program(rule.expression).evaluate(variables) else rule.message
    except celpy.CELEvalError as error:
        return f"{rule.expression} can't be evaluated: {error.args[0]}"


@lru_cache(maxsize=512)
def program(expression: str) -> Any:
    """The expression, compiled; celpy.CELParseError where it is not CEL."""
    environment = celpy.Environment()
    return environment.program(environment.compile(expression), functions={"_!=_": _differs})


def _differs(left: Any, right: Any) -> Any:
    """`!=` as cel-go has it: a number and a text differ. cel-python has no overload for the two."""
    texts = [isinstance(each, celpy.celtypes.StringType) for each in (left, right)]
    if any(texts) and not any(isinstance(each, celpy.CELEvalError) for each in (left, right)):
        return celpy.celtypes.BoolType(not all(texts) or left != right)
    return bool_ne(left, right)


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {f"__{key}__" if key in _RESERVED else key: _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value


def _values(
    path: tuple[str, ...], keys: tuple[tuple[str, ...], ...], value: Any, before: Any, place: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Each value at a path, its place in words, and what was there before."""
    if not path:
        yield place or "(root)", value, before
        return
    step, rest = path[0], path[1:]
    if step == "[]":
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from _values(rest, keys[1:], item, _same(item, before, keys[0]), f"{place}[{index}]")
        return
    names = list(value) if step == "{}" and isinstance(value, dict) else [step]
    for name in names:
        if isinstance(value, dict) and name in value:
            was = before.get(name, _ABSENT) if isinstance(before, dict) else _ABSENT
            yield from _values(rest, keys, value[name], was, f"{place}.{name}".lstrip("."))


def _same(item: Any, before: Any, keys: tuple[str, ...]) -> Any:
    """The old item with the same keys; a list without keys has no such thing."""
    if keys and isinstance(before, list):
        for old in before:
            if all(old.get(key) == item.get(key) for key in keys):
                return old
    return _ABSENT
