"""Tool calls that a model writes as JSON, or as a name and JSON, instead of in GLM's own form.

The forms are those that other models were trained on, and that GLM models copy from prompts: an object with `name`
and `arguments` or `parameters` (Hermes, Llama), the same within `function` (OpenAI), a list of such objects
(Mistral), several of them, and a name before the arguments object, with or without parentheses, or before Python's
keyword arguments. Code fences around them are dropped, and small errors of the JSON are understood (lenient_json.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from serve_app.engine.output.lenient_json import (
    compact,
    encodable,
    read_all_json,
    read_json,
    read_keywords,
    read_valid_json,
    skip,
)

_CUT_NAME = re.compile(r'"name"\s*:\s*"(?P<name>[^"\\]+)"')
_CUT_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*(\{)')
_BEFORE_OBJECT = re.compile(r"[\s,;\[]*+")
_NAMES = ("name", "function", "tool", "tool_name")
_ARGUMENTS = ("arguments", "parameters", "input", "args")
_NO_ARGUMENTS = frozenset([*_NAMES, "id", "type"])


def without_fence(text: str) -> str | None:
    """Text without the first line of a code fence; None if that line is not complete."""
    text = text.lstrip()
    if not text.startswith("```"):
        return text
    _, newline, following = text.partition("\n")
    return following.lstrip() if newline else None


def split_name(text: str) -> tuple[str, str]:
    """The name at the start of a call, and the rest of its text."""
    line, newline, following = text.lstrip().partition("\n")
    name = re.split(r"[({]", line)[0].strip()
    return name, (line[len(name) :].strip().removeprefix("(") + newline + following).strip()


def parse_arguments(text: str, known: Mapping[str, Any]) -> str | None:
    """The arguments after a name, as compact JSON; None if there are none. `known`: the tool's arguments."""
    text = (without_fence(text) or "").strip().removeprefix("(")
    found = _object(text)
    if found is None and (keywords := read_keywords(text)) is not None:
        return compact(keywords)
    if found is None and (at := text.find("{")) >= 0:
        found = _object(text[at:])
    if found is None:
        return None
    for key in _ARGUMENTS[:2]:
        if key in found and key not in known and set(found) <= {key, "name"}:
            return compact(_as_object(found[key]))
    return compact(found)


def parse_calls(text: str, tools: Collection[str]) -> list[tuple[str, str]]:
    """The names and arguments of calls that are JSON; empty if there is no name in it."""
    calls: list[tuple[str, str]] = []
    for value in read_all_json(without_fence(text) or ""):
        if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
            value = value["tool_calls"]
        parts = value if isinstance(value, list) else [value]
        calls += [call for part in parts if (call := _call(part, tools)) is not None]
    return calls


def parse_cut_calls(text: str, tools: Collection[str]) -> tuple[list[tuple[str, str]], tuple[str, str]]:
    """The complete calls of JSON that was cut off; the name and the beginning of the arguments of the last one."""
    text, calls, at = without_fence(text) or "", [], 0
    while (found := _valid_object(text, at := skip(_BEFORE_OBJECT, text, at))) is not None:
        value, at = found
        if (call := _call(value, tools)) is not None:
            calls.append(call)
    name, arguments = _CUT_NAME.search(text, at), _CUT_ARGUMENTS.search(text, at)
    return calls, (name["name"] if name else "", cut_object(text[arguments.start(1) :]) if arguments else "")


def cut_object(text: str) -> str:
    """The object at the start of a text, as it is written, complete or not."""
    found = _valid_object(text, 0)
    return text if found is None else text[: found[1]]


def _call(part: Any, tools: Collection[str]) -> tuple[str, str] | None:
    if isinstance(part, dict) and isinstance(part.get("function"), dict):
        part = part["function"]
    if not isinstance(part, dict):
        return None
    if len(part) == 1 and (only := next(iter(part))) in tools:
        return only, compact(_as_object(part[only]))
    name = next((part[key] for key in _NAMES if isinstance(part.get(key), str)), "").strip()
    if not name:
        return None
    if (key := next((key for key in _ARGUMENTS if key in part), None)) is not None:
        return encodable(name), compact(_as_object(part[key]))
    return encodable(name), compact({key: value for key, value in part.items() if key not in _NO_ARGUMENTS})


def _as_object(value: Any) -> dict[str, Any]:
    """Arguments as an object; they may be JSON within a string, as in OpenAI's API."""
    if isinstance(value, str):
        value = _object(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, dict) else {}


def _object(text: str) -> dict[str, Any] | None:
    """The object at the start of a text, or in a JSON string there."""
    found = read_json(text)
    if found is not None and isinstance(found[0], str):
        found = read_json(found[0])
    return found[0] if found is not None and isinstance(found[0], dict) else None


def _valid_object(text: str, start: int) -> tuple[Any, int] | None:
    if not text.startswith("{", start):
        return None
    try:
        read_valid_json(text, start)
    except (ValueError, RecursionError):
        return None
    return read_json(text, start)
