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
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.tool_schema import JsonTypes, argument_types, json_type

_PYTHON_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_STRING = frozenset(["string"])
_STRING_OR_NULL = frozenset(["string", "null"])


@dataclass(frozen=True, slots=True)
class CallPiece:
    """New of a call: `name` in its first piece only; the arguments' pieces add up to a JSON object."""

    index: int
    name: str | None
    arguments: str


class _Part(Enum):
    """Where in a call the next text belongs."""

    OUTSIDE = auto()
    NAME = auto()
    BETWEEN = auto()
    KEY = auto()
    VALUE = auto()  # held until it is whole
    STRING = auto()  # told as it comes
    SKIPPED = auto()


class ToolCallParser:
    """Reads the calls of one answer."""

    def __init__(self, tools: ToolUse) -> None:
        self._types = {tool.name: argument_types(tool.parameters) for tool in tools.tools}
        self._part = _Part.OUTSIDE
        self._buffer = ""  # of the name, key or value that is being read
        self._name = ""
        self._key = ""
        self._keys: set[str] = set()
        self._pieces: list[CallPiece] = []
        self.calls = 0  # that have a name

    @property
    def inside(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._part is not _Part.OUTSIDE

    def push_text(self, text: str) -> list[CallPiece]:
        """Take in text of a call, whole characters."""
        if self._part is _Part.STRING:
            self._emit(_escape(text))
        else:
            self._buffer += text
            if self._part is _Part.NAME and "\n" in self._buffer.lstrip():
                self._end_part()
            elif self._part is _Part.VALUE and self._is_certainly_a_string():
                self._begin_string()
        return self._pop_pieces()

    def push_token(self, token: ControlToken) -> list[CallPiece]:
        """Take in a token; one that can't stand here is passed over."""
        if token is ControlToken.TOOL_CALL:
            self._close()
            self._part, self._name, self._key, self._keys = _Part.NAME, "", "", set()
        elif not self.inside:
            return []
        elif token is ControlToken.END_TOOL_CALL:
            self._close()
        elif token is ControlToken.ARG_KEY:
            self._end_part()
            self._part = _Part.KEY
        elif token is ControlToken.ARG_VALUE:
            self._end_part()
            self._begin_value()
        elif token in (ControlToken.END_ARG_KEY, ControlToken.END_ARG_VALUE):
            self._end_part()
        return self._pop_pieces()

    def close(self) -> list[CallPiece]:
        """End a call that the model itself left open: what it began of the arguments is closed."""
        self._close()
        return self._pop_pieces()

    def _end_part(self) -> None:
        """What was being read is whole."""
        held, self._buffer = self._buffer, ""
        place, self._part = self._part, _Part.BETWEEN
        if place is _Part.NAME and held.strip():
            self._name = held.strip().split("\n")[0].rstrip()
            self.calls += 1
            self._pieces.append(CallPiece(self.calls - 1, self._name, ""))
        elif place is _Part.KEY:
            self._key = held.strip()
        elif place is _Part.VALUE:
            self._emit(_to_json(held, self._value_types))
        elif place is _Part.STRING:
            self._emit('"')

    def _begin_value(self) -> None:
        if self._key in self._keys:
            self._part = _Part.SKIPPED
            return
        self._emit(("," if self._keys else "{") + json.dumps(self._key, ensure_ascii=False) + ":")
        self._keys.add(self._key)
        self._part = _Part.VALUE
        if self._value_types == _STRING:
            self._begin_string()

    def _is_certainly_a_string(self) -> bool:
        return self._value_types == _STRING_OR_NULL and not any(
            word.startswith(self._buffer) for word in ("null", "None")
        )

    def _begin_string(self) -> None:
        held, self._buffer = self._buffer, ""
        self._part = _Part.STRING
        self._emit('"' + _escape(held))

    def _close(self) -> None:
        if self.inside:
            self._end_part()
            self._emit("}" if self._keys else "{}")
            self._part = _Part.OUTSIDE

    @property
    def _value_types(self) -> JsonTypes:
        return self._types.get(self._name, {}).get(self._key)

    def _emit(self, arguments: str) -> None:
        if self._name and arguments:
            self._pieces.append(CallPiece(self.calls - 1, None, arguments))

    def _pop_pieces(self) -> list[CallPiece]:
        pieces, self._pieces = self._pieces, []
        return pieces


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _to_json(text: str, types: JsonTypes) -> str:
    """A whole value as JSON text."""
    bare = text.strip()
    found = _json_type(bare)
    if found is not None and (types is None or found in types):
        return bare
    if types is None or "string" in types:
        return json.dumps(text, ensure_ascii=False)
    if bare in _PYTHON_CONSTANTS and _json_type(_PYTHON_CONSTANTS[bare]) in types:
        return _PYTHON_CONSTANTS[bare]
    return bare if found is not None else json.dumps(text, ensure_ascii=False)


def _json_type(text: str) -> str | None:
    try:
        return json_type(json.loads(text, parse_constant=_reject_constant))
    except (ValueError, RecursionError):
        return None


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
