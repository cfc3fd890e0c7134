"""Parser of GLM's tool calls: names, and arguments as pieces of one JSON object a call.

A call is `<tool_call>name\\n`, then for each argument `<arg_key>k</arg_key>\\n<arg_value>v</arg_value>\\n`,
then `</tool_call>`; strings are written bare, other values as JSON (chat template of GLM-4.5V / 4.6V).
White space between control tokens is ignored. Models also write the name and the arguments as one JSON object
between the call's control tokens, or a name and then the arguments as JSON; both are parsed (json_calls.py).

A value that can only be a string is streamed. Other values are buffered until they are complete. They are
emitted as JSON if that has a type which the tool's schema allows, else as a string if the schema allows
one, else converted: JSON within a string, JSON with small errors (lenient_json.py), Python's `True`, `False` and
`None`, JSON of another type, and finally a string. The second of two arguments with the same name is ignored, and
so is a call that has neither name nor text. A call of a tool that was not offered is returned as text, and so is
what is no call at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from enum import Enum, auto
from typing import Any

from serve_app.contracts import ToolCallDelta, ToolUse
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.json_calls import (
    cut_object,
    parse_arguments,
    parse_calls,
    parse_cut_calls,
    split_name,
    without_fence,
)
from serve_app.engine.output.lenient_json import compact, read_json, whole_json
from serve_app.engine.output.tool_schema import JsonTypes, argument_types, json_type

_PYTHON_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_NAME = re.compile(r"[\w.:/-]+")  # of a tool; other text is no call
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
        self.written = ""  # all text of the last call
        self._buffer = ""  # of the current name, key or value
        self._name = ""
        self._key = ""
        self._keys: set[str] = set()
        self._foreign: str | None = None  # the arguments of a tool that was not offered
        self._deltas: list[ToolCallDelta | str] = []
        self.calls = 0  # of tools that were offered

    @property
    def tools(self) -> Collection[str]:
        """The names of the tools that were offered."""
        return self._types.keys()

    @property
    def complete(self) -> bool:
        """Whether no more calls are allowed after those that ended."""
        return self.calls > 0 and not self._parallel and not self.inside

    @property
    def has_name(self) -> bool:
        """Whether the open call is of a tool that was offered, as far as it was read."""
        return self.inside and self._name in self._types

    @property
    def inside(self) -> bool:
        """Whether a call is open."""
        return self._part is not _Part.OUTSIDE

    def push_text(self, text: str) -> list[ToolCallDelta | str]:
        """Parse text of a call."""
        self.written += text
        if self._part is _Part.STRING:
            self._emit(_escape(text))
        else:
            self._buffer += text
            if self._part is _Part.NAME:
                self._read_name(without_fence(self._buffer) or "")
            elif self._part is _Part.VALUE and self._is_certainly_a_string():
                self._begin_string()
        return self._take_deltas()

    def push_token(self, token: ControlToken) -> list[ToolCallDelta | str]:
        """Parse a control token; one that is not allowed here is ignored."""
        if token is ControlToken.TOOL_CALL:
            self._close()
            self._part, self.written, self._name, self._key, self._keys = _Part.NAME, "", "", "", set()
        elif not self.inside:
            return []
        elif token is ControlToken.END_TOOL_CALL:
            self._close()
        elif token is ControlToken.ARG_KEY:
            self._end_part()
            self._part = _Part.KEY
        elif token is ControlToken.ARG_VALUE:
            if self._part is _Part.BETWEEN:
                self._buffer = ""
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
            self._cut_json()
        elif self._part is _Part.BETWEEN and not self._keys and (at := self._buffer.find("{")) >= 0:
            self._emit(cut_object(self._buffer[at:]).strip())
        self._part, self._buffer = _Part.OUTSIDE, ""
        return self._take_deltas()

    def _read_name(self, text: str) -> None:
        if text.startswith(("{", "[")):
            self._part = _Part.JSON
        elif "\n" in text:
            self._end_part()

    def _end_part(self) -> None:
        """The current name, key or value is complete."""
        text, self._buffer = self._buffer, ""
        part, self._part = self._part, _Part.BETWEEN
        if part is _Part.NAME:
            name, self._buffer = split_name(without_fence(text) or "")
            if name:
                self._begin_call(name)
        elif part is _Part.BETWEEN and self._key and self._key not in self._keys and text.strip():
            self._buffer = text.strip()  # a value whose beginning is not marked
            self._begin_value()
            self._end_part()
        elif part is _Part.KEY:
            bare = text.strip().strip("\"'`")
            self._key = bare if bare in self._types.get(self._name, {}) else text.strip()
        elif part is _Part.VALUE:
            self._emit(_to_json(text, self._value_types))
        elif part is _Part.STRING:
            self._emit('"')

    def _begin_call(self, name: str) -> None:
        bare = name.strip("\"'`*: ")
        offered = (name, bare, bare.removeprefix("functions."), bare.removeprefix("name:").lstrip())
        self._name = name = next((known for known in offered if known in self._types), name)
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
            if self._part is not _Part.BETWEEN or self._key:
                self._end_part()
            arguments = None if self._keys else parse_arguments(self._buffer, self._types.get(self._name, {}))
            if arguments is None and not self._keys and not (self._name in self._types or _NAME.fullmatch(self._name)):
                self._return_as_text()
            else:
                self._emit(arguments or ("}" if self._keys else "{}"))
                self._end_call()
        self._part, self._buffer = _Part.OUTSIDE, ""

    def _close_json(self) -> None:
        calls = parse_calls(self._buffer, self._types)
        for name, arguments in calls:
            self._add_call(name, arguments)
            if self.calls and not self._parallel:
                break
        if not calls:
            self._return_as_text()

    def _cut_json(self) -> None:
        calls, (name, arguments) = parse_cut_calls(self._buffer, self._types)
        for call in calls:
            self._add_call(*call)
            if self.calls and not self._parallel:
                return
        if name:
            self._add_call(name, arguments)

    def _add_call(self, name: str, arguments: str) -> None:
        self._begin_call(name)
        self._emit(arguments)
        self._end_call()

    def _return_as_text(self) -> None:
        """What was written is no call."""
        if self.written.strip():
            self._deltas.append(self.written)
        self._name, self._foreign = "", None

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
    written, found = _parse(bare)
    if found is not None and (types is None or found in types):
        return written
    if types is None or "string" in types:
        return json.dumps(text, ensure_ascii=False)
    if found == "string" and (inner := _parse(json.loads(bare)))[1] in types:
        return inner[0]
    if found is None and (value := _lenient_value(bare)) is not None and json_type(value) in types:
        return compact(value)
    if bare in _PYTHON_CONSTANTS and _parse(_PYTHON_CONSTANTS[bare])[1] in types:
        return _PYTHON_CONSTANTS[bare]
    return written if found is not None else json.dumps(text, ensure_ascii=False)


def _lenient_value(text: str) -> Any:
    """The JSON with small errors that a whole value is; None if more follows, as in `1,000` and `2024-01-05`."""
    unfenced = without_fence(text) or ""
    found = read_json(unfenced)
    return None if found is None or unfenced[found[1] :].strip(" \r\n\t`;") else found[0]


def _parse(text: str) -> tuple[str, str | None]:
    """JSON that clients can read, and its type; the text and None if it is none."""
    try:
        value: Any = whole_json(text)
    except (ValueError, RecursionError):
        return text, None
    return (text if "\\u" not in text else compact(value)), json_type(value)
