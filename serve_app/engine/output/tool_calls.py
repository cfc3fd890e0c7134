"""GLM's written tool calls to names and JSON arguments, piece by piece.

A call is `<tool_call>name\\n`, then for each argument `<arg_key>k</arg_key>\\n<arg_value>v</arg_value>\\n`,
then `</tool_call>`; strings stand bare, other values as JSON (chat template of GLM-4.5V / 4.6V). White
space between marks means nothing. Text and marks come in; out come pieces that add up to one JSON object
a call.

A value that can only be a string is told while it is drawn. Others are held until they are whole, then
told as JSON if that gives a type which the tool's schema allows, else as a string if it allows one, else
as it may be meant: Python's `True`, `False` and `None`, JSON of another type, at last a string. A call
without a name is no call, and the second of two arguments with one name is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn

from serve_app.contracts import ToolUse
from serve_app.engine.output.control_tokens import Mark
from serve_app.engine.output.tool_schema import Types, argument_types, json_type

_PYTHON = {"True": "true", "False": "false", "None": "null"}
_STRING = frozenset(["string"])
_STRING_OR_NULL = frozenset(["string", "null"])


@dataclass(frozen=True, slots=True)
class CallPiece:
    """New of a call: `name` in its first piece only; the arguments' pieces add up to a JSON object."""

    index: int
    name: str | None
    arguments: str


class _Place(Enum):
    """Where in a call the next text belongs."""

    OUTSIDE = auto()
    NAME = auto()
    BETWEEN = auto()
    KEY = auto()
    VALUE = auto()  # held until it is whole
    STRING = auto()  # told as it comes
    LEFT_OUT = auto()


class CallParser:
    """Reads the calls of one answer."""

    def __init__(self, tools: ToolUse) -> None:
        self._types = {tool.name: argument_types(tool.parameters) for tool in tools.tools}
        self._place = _Place.OUTSIDE
        self._held = ""  # of the name, key or value that is being read
        self._name = ""
        self._key = ""
        self._keys: set[str] = set()
        self._pieces: list[CallPiece] = []
        self.calls = 0  # that have a name

    @property
    def inside(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._place is not _Place.OUTSIDE

    def text(self, text: str) -> list[CallPiece]:
        """Take in text of a call, whole characters."""
        if self._place is _Place.STRING:
            self._tell(_inside_string(text))
        else:
            self._held += text
            if self._place is _Place.NAME and "\n" in self._held.lstrip():
                self._leave()
            elif self._place is _Place.VALUE and self._is_certainly_a_string():
                self._begin_string()
        return self._taken()

    def mark(self, mark: Mark) -> list[CallPiece]:
        """Take in a mark; one that can't stand here is passed over."""
        if mark is Mark.TOOL_CALL:
            self._close()
            self._place, self._name, self._key, self._keys = _Place.NAME, "", "", set()
        elif not self.inside:
            return []
        elif mark is Mark.END_TOOL_CALL:
            self._close()
        elif mark is Mark.ARG_KEY:
            self._leave()
            self._place = _Place.KEY
        elif mark is Mark.ARG_VALUE:
            self._leave()
            self._begin_value()
        elif mark in (Mark.END_ARG_KEY, Mark.END_ARG_VALUE):
            self._leave()
        return self._taken()

    def close(self) -> list[CallPiece]:
        """End a call that the model itself left open: what it began of the arguments is closed."""
        self._close()
        return self._taken()

    def _leave(self) -> None:
        """What was being read is whole."""
        held, self._held = self._held, ""
        place, self._place = self._place, _Place.BETWEEN
        if place is _Place.NAME and held.strip():
            self._name = held.strip().split("\n")[0].rstrip()
            self.calls += 1
            self._pieces.append(CallPiece(self.calls - 1, self._name, ""))
        elif place is _Place.KEY:
            self._key = held.strip()
        elif place is _Place.VALUE:
            self._tell(_as_json(held, self._value_types))
        elif place is _Place.STRING:
            self._tell('"')

    def _begin_value(self) -> None:
        if self._key in self._keys:
            self._place = _Place.LEFT_OUT
            return
        self._tell(("," if self._keys else "{") + json.dumps(self._key, ensure_ascii=False) + ":")
        self._keys.add(self._key)
        self._place = _Place.VALUE
        if self._value_types == _STRING:
            self._begin_string()

    def _is_certainly_a_string(self) -> bool:
        return self._value_types == _STRING_OR_NULL and not any(
            word.startswith(self._held) for word in ("null", "None")
        )

    def _begin_string(self) -> None:
        held, self._held = self._held, ""
        self._place = _Place.STRING
        self._tell('"' + _inside_string(held))

    def _close(self) -> None:
        if self.inside:
            self._leave()
            self._tell("}" if self._keys else "{}")
            self._place = _Place.OUTSIDE

    @property
    def _value_types(self) -> Types:
        return self._types.get(self._name, {}).get(self._key)

    def _tell(self, arguments: str) -> None:
        if self._name and arguments:
            self._pieces.append(CallPiece(self.calls - 1, None, arguments))

    def _taken(self) -> list[CallPiece]:
        pieces, self._pieces = self._pieces, []
        return pieces


def _inside_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _as_json(text: str, types: Types) -> str:
    """A whole value as JSON text."""
    bare = text.strip()
    found = _type_if_json(bare)
    if found is not None and (types is None or found in types):
        return bare
    if types is None or "string" in types:
        return json.dumps(text, ensure_ascii=False)
    if bare in _PYTHON and _type_if_json(_PYTHON[bare]) in types:
        return _PYTHON[bare]
    return bare if found is not None else json.dumps(text, ensure_ascii=False)


def _type_if_json(text: str) -> str | None:
    try:
        return json_type(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
