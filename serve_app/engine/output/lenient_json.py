"""JSON as models write it: with small errors, read as far as its meaning is clear.

Valid JSON is read by Python's parser. Otherwise these are understood: line ends and unknown escapes within strings,
single quotes, keys without quotes, Python's constants, a comma too many, and brackets or quotes that are not closed.
The library json-repair is not used: it makes something of any text, also `inf`, and a call must not be invented.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

MAX_LEVELS = 100  # of nesting: what reads arguments recursively has limits of its own, such as 254 of orjson
_SPACE = re.compile(r"\s*+")
_BETWEEN = re.compile(r"[\s,;]*+")
_NUMBER = re.compile(r"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+(?![\w.])")
_KEY = re.compile(r"[^\W\d]\w*+")
_CONSTANT = re.compile(r"(?:true|false|null|True|False|None)\b")
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False}
_STRINGS = {
    '"': re.compile(r'"((?:[^"\\]|\\.)*+)("?+)', re.DOTALL),
    "'": re.compile(r"'((?:[^'\\]|\\.)*+)('?+)", re.DOTALL),
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\", "/": "/"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(text: str, start: int = 0) -> tuple[Any, int] | None:
    """The JSON at `start` of a text, and where it ends; None if there is none, or one that is nested too deeply."""
    start = skip(_SPACE, text, start)
    try:
        found, end = read_valid_json(text, start)
    except (ValueError, RecursionError):
        try:
            return _Reader(text, start).read()
        except ValueError:
            return None
    return (found, end) if _levels(found) <= MAX_LEVELS else None


def read_valid_json(text: str, start: int) -> tuple[Any, int]:
    """As `read_json`, without errors but line ends in strings; raises ValueError or RecursionError."""
    decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_reject_constant, strict=False)
    return decoder.raw_decode(text, start)


def read_all_json(text: str) -> list[Any]:
    """The values at the start of a text, one after the other."""
    values, at = [], 0
    while (found := read_json(text, at)) is not None:
        value, end = found
        values.append(value)
        at = skip(_BETWEEN, text, end)
    return values


def read_keywords(text: str) -> dict[str, Any] | None:
    """The arguments of a Python call, `a="b", n=3`; None if there are none."""
    try:
        return _Reader(text, 0).read_pairs("=", ")") or None
    except ValueError:
        return None


def whole_json(text: str) -> Any:
    """The valid JSON that a text is; raises ValueError or RecursionError, also for what clients can't read."""
    found = json.loads(text, parse_float=_finite, parse_constant=_reject_constant)
    if _levels(found) > MAX_LEVELS:
        raise ValueError("The JSON is nested too deeply.")
    return found


def compact(value: Any) -> str:
    """A value as compact JSON; half an emoji (a lone surrogate), which UTF-8 does not have, becomes U+FFFD."""
    return encodable(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def encodable(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


class _Reader:
    """Reads one value with small errors; raises ValueError where the meaning is not clear."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._at = start
        self._levels = 0

    def read(self) -> tuple[Any, int]:
        if self._next() not in ("{", "["):
            raise ValueError("no object or list")
        return self._value(), self._at

    def read_pairs(self, between: str, end: str) -> dict[str, Any]:
        """Keys and values up to `end`, or to the end of the text."""
        pairs: dict[str, Any] = {}
        while self._next() not in (end, ""):
            key = self._string() if self._next() in _STRINGS else self._match(_KEY)
            self._take(between)
            pairs[key] = self._value()
            if self._next() not in (end, ""):
                self._take(",")
        self._at += 1
        return pairs

    def _value(self) -> Any:
        match self._next():
            case "{" | "[" as opening:
                self._at += 1
                self._levels += 1
                if self._levels > MAX_LEVELS + 1:
                    raise ValueError("nested too deeply")
                value: Any = self.read_pairs(":", "}") if opening == "{" else self._list()
                self._levels -= 1
                return value
            case '"' | "'":
                return self._string()
        if _CONSTANT.match(self._text, self._at):
            return _CONSTANTS.get(self._match(_CONSTANT))
        number = self._match(_NUMBER)
        return _finite(number) if any(sign in number for sign in ".eE") else int(number)

    def _list(self) -> list[Any]:
        values = []
        while self._next() not in ("]", ""):
            values.append(self._value())
            if self._next() not in ("]", ""):
                self._take(",")
        self._at += 1
        return values

    def _string(self) -> str:
        found = _STRINGS[self._text[self._at]].match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        text = _ESCAPE.sub(_unescape, found[1])
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(text) else text

    def _next(self) -> str:
        self._at = skip(_SPACE, self._text, self._at)
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise ValueError(f"no {character}")
        self._at += 1

    def _match(self, pattern: re.Pattern[str]) -> str:
        if (found := pattern.match(self._text, self._at)) is None:
            raise ValueError(f"no match at {self._at}")
        self._at = found.end()
        return found[0]


def skip(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a match at `start` ends, of a pattern that also matches nothing."""
    found = pattern.match(text, start)
    assert found is not None  # it may be empty
    return found.end()


def _unescape(found: re.Match[str]) -> str:
    escaped = found[1]
    if len(escaped) > 1:
        return chr(int(escaped[1:], 16))
    return _ESCAPES.get(escaped, "\\" + escaped)


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
