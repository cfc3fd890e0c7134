"""Parser of GLM's tool calls: names, and arguments as pieces of one JSON object a call.

A call is `<tool_call>name\\n`, then for each argument `<arg_key>k</arg_key>\\n<arg_value>v</arg_value>\\n`,
then `</tool_call>`; strings are written bare, other values as JSON (chat template of GLM-4.5V / 4.6V).
White space between control tokens is ignored. Models also write the name and the arguments as one JSON object
between the call's control tokens, or a name and then the arguments as JSON; both are parsed (json_calls.py).

A value that can only be a string is streamed. Other values are buffered until they are complete. They are
emitted as JSON if that has a type which the tool's schema allows, else as a string if the schema allows
one, else converted: Python's `True`, `False` and `None`, JSON of another type, and finally a string. A call
without a name is ignored, and so is the second of two arguments with the same name. A call of a tool that was
not offered is returned as text.
"""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import NoReturn

from serve_app.contracts import ToolCallDelta, ToolUse
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.json_calls import parse_arguments, parse_calls, parse_cut_call, split_name
from serve_app.engine.output.tool_schema import JsonTypes, argument_types, json_type

_PYTHON_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_STRING = frozenset(["string"])
_STRING_OR_NULL = frozenset(["string", "null"])


class _Part(Enum):
    """The part of a call that the next text belongs to."""

    OUTSIDE = auto()
    NAME = auto()
    JSON = auto()  # the call as JSON, buffered until it is complete
    BETWEEN = auto()
    KEY = auto()
    VALUE = auto()  # buffered until it is complete
    STRING = auto()  # streamed
    SKIPPED = auto()


class ToolCallParser:
    """Parses the tool calls of one answer.

    The deltas returned do not count tokens (`tokens` is 0). A string among them is a call of a tool that was not
    offered, for example `weather({"city":"Paris"})`.
    """

    def __init__(self, tools: ToolUse) -> None:
        self._types = {tool.name: argument_types(tool.parameters) for tool in tools.tools}
        self._parallel = tools.parallel
        self._part = _Part.OUTSIDE
        self._buffer = ""  # of the current name, key or value
        self._name = ""
        self._key = ""
        self._keys: set[str] = set()
        self._foreign: str | None = None  # the arguments of a tool that was not offered
        self._deltas: list[ToolCallDelta | str] = []
        self.calls = 0  # of tools that were offered

    @property
    def inside(self) -> bool:
        """Whether a call is open."""
        return self._part is not _Part.OUTSIDE

    def push_text(self, text: str) -> list[ToolCallDelta | str]:
        """Parse text of a call."""
        if self._part is _Part.STRING:
            self._emit(_escape(text))
        else:
            self._buffer += text
            if self._part is _Part.NAME and self._buffer.lstrip().startswith(("{", "[")):
                self._part = _Part.JSON
            elif self._part is _Part.NAME and "\n" in self._buffer.lstrip():
                self._end_part()
            elif self._part is _Part.VALUE and self._is_certainly_a_string():
                self._begin_string()
        return self._take_deltas()

    def push_token(self, token: ControlToken) -> list[ToolCallDelta | str]:
        """Parse a control token; one that is not allowed here is ignored."""
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
        return self._take_deltas()

    def close(self) -> list[ToolCallDelta | str]:
        """Close a call that the model left open, and its arguments object."""
        self._close()
        return self._take_deltas()

    def cut(self) -> list[ToolCallDelta | str]:
        """The answer was cut off: return the buffered JSON, and a call that becomes text."""
        if self._foreign is not None:
            return self.close()
        if self._part is _Part.JSON:
            name, arguments = parse_cut_call(self._buffer)
            if name:
                self._begin_call(name)
                self._emit(arguments)
        elif self._part is _Part.BETWEEN and not self._keys and self._buffer.lstrip().startswith("{"):
            self._emit(self._buffer.strip())
        self._part, self._buffer = _Part.OUTSIDE, ""
        return self._take_deltas()

    def _end_part(self) -> None:
        """The current name, key or value is complete."""
        text, self._buffer = self._buffer, ""
        part, self._part = self._part, _Part.BETWEEN
        if part is _Part.NAME and text.strip():
            name, self._buffer = split_name(text)
            if name:
                self._begin_call(name)
        elif part is _Part.KEY:
            self._key = text.strip()
        elif part is _Part.VALUE:
            self._emit(_to_json(text, self._value_types))
        elif part is _Part.STRING:
            self._emit('"')

    def _begin_call(self, name: str) -> None:
        self._name = name
        if name in self._types:
            self.calls += 1
            self._deltas.append(ToolCallDelta(self.calls - 1, name, "", 0))
        else:
            self._foreign = ""

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
        text, self._buffer = self._buffer, ""
        self._part = _Part.STRING
        self._emit('"' + _escape(text))

    def _close(self) -> None:
        if self._part is _Part.JSON:
            self._close_json()
        elif self.inside:
            if self._part is not _Part.BETWEEN:
                self._end_part()
            arguments = None if self._keys else parse_arguments(self._buffer, self._types.get(self._name, {}))
            self._emit(arguments or ("}" if self._keys else "{}"))
            self._end_call()
        self._part, self._buffer = _Part.OUTSIDE, ""

    def _close_json(self) -> None:
        for name, arguments in parse_calls(self._buffer):
            self._begin_call(name)
            self._emit(arguments)
            self._end_call()
            if self.calls and not self._parallel:
                break

    def _end_call(self) -> None:
        if self._foreign is not None:
            self._deltas.append(f"{self._name}({self._foreign})")
        self._name, self._foreign = "", None

    @property
    def _value_types(self) -> JsonTypes:
        return self._types.get(self._name, {}).get(self._key)

    def _emit(self, arguments: str) -> None:
        if self._foreign is not None:
            self._foreign += arguments
        elif self._name and arguments:
            self._deltas.append(ToolCallDelta(self.calls - 1, None, arguments, 0))

    def _take_deltas(self) -> list[ToolCallDelta | str]:
        deltas, self._deltas = self._deltas, []
        return deltas


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _to_json(text: str, types: JsonTypes) -> str:
    """A complete value as JSON text."""
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
