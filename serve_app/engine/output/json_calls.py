"""Tool calls that a model writes as JSON, or as a name and JSON, instead of in GLM's own form.

The forms are those that other models were trained on, and that GLM models copy from prompts: an object with `name`
and `arguments` or `parameters` (Hermes, Llama), the same within `function` (OpenAI), a list of such objects
(Mistral), and a name before the arguments object, with or without parentheses.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

_CUT_NAME = re.compile(r'"name"\s*:\s*"(?P<name>[^"\\]+)"')
_CUT_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*(?P<arguments>\{.*)', re.DOTALL)
_ARGUMENTS = ("arguments", "parameters")
_MAX_LEVELS = 100  # of nesting: what reads arguments recursively has limits of its own, such as 254 of orjson
_SURROGATE = re.compile("[\ud800-\udfff]")


def split_name(text: str) -> tuple[str, str]:
    """The name at the start of a call, and the rest of its text."""
    line, newline, following = text.lstrip().partition("\n")
    name = re.split(r"[({]", line)[0].strip()
    return name, (line[len(name) :].strip().removeprefix("(") + newline + following).strip()


def parse_arguments(text: str, known: Mapping[str, Any]) -> str | None:
    """The arguments object after a name, as compact JSON; None if there is none. `known`: the tool's arguments."""
    found = _first_json(text.strip().removeprefix("("))
    if not isinstance(found, dict):
        return None
    for key in _ARGUMENTS:
        if key in found and key not in known and set(found) <= {key, "name"}:
            return _arguments(found[key])
    return _compact(found)


def parse_calls(text: str) -> list[tuple[str, str]]:
    """The names and arguments of a call that is JSON; empty if there is no name in it."""
    found = _first_json(text.strip())
    return [call for part in (found if isinstance(found, list) else [found]) if (call := _call(part)) is not None]


def parse_cut_call(text: str) -> tuple[str, str]:
    """The name and the beginning of the arguments of JSON that was cut off; empty if they are not in it."""
    name, arguments = _CUT_NAME.search(text), _CUT_ARGUMENTS.search(text)
    return name["name"] if name else "", arguments["arguments"] if arguments else ""


def _call(part: Any) -> tuple[str, str] | None:
    if isinstance(part, dict) and isinstance(part.get("function"), dict):
        part = part["function"]
    if not isinstance(part, dict) or not isinstance(name := part.get("name"), str) or not name.strip():
        return None
    return _encodable(name.strip()), _arguments(next((part[key] for key in _ARGUMENTS if key in part), None))


def _arguments(value: Any) -> str:
    """Arguments as compact JSON of an object; they may be JSON within a string, as in OpenAI's API."""
    if isinstance(value, str):
        value = _first_json(value)
    return _compact(value) if isinstance(value, dict) else "{}"


def _first_json(text: str) -> Any:
    """The JSON at the start of a text; None if there is none, or one that is nested too deeply."""
    try:
        found = json.JSONDecoder(parse_float=_finite, parse_constant=_reject_constant).raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None
    return found if _levels(found) <= _MAX_LEVELS else None


def _levels(value: Any) -> int:
    """How deeply lists and objects are nested in a value."""
    levels, level = 0, [value]
    while level := [inner for outer in level for inner in _inner(outer)]:
        levels += 1
    return levels


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(f"{number} is too large for JSON")
    return value


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _compact(value: Any) -> str:
    return _encodable(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _encodable(text: str) -> str:
    """Text without halves of emoji (lone surrogates), which UTF-8 does not have; each becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)
