"""Grammar of a constrained answer, in llguidance's dialect of Lark.

An answer is reasoning (if enabled), then a body: the constraint of the request, tool calls, or text and tool
calls. Control tokens are special tokens in the grammar, so text cannot imitate them. JSON has at most one
space after a comma or colon: a weak model would otherwise fill its answer with spaces.
What a caller sent enters the grammar only as a literal (`_literal`), a regex (`_regex`), JSON (`_json`) or an int.
Source of the syntax: llguidance docs/syntax.md and docs/json_schema.md; of a call: the chat template of
GLM-4.5V / 4.6V.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llguidance import regex_to_lark

from serve_app.contracts import Constraint, Prompt, Tool, ToolUse
from serve_app.engine.output.control_tokens import ControlToken, ControlTokens
from serve_app.engine.output.tool_schema import JsonTypes, allowed_types, resolve_reference
from serve_app.engine.structured.schema_check import check_schema
from serve_app.errors import InvalidRequest

MAX_CONSTRAINT_BYTES = 64 * 2**10
MAX_TOOLS_BYTES = 256 * 2**10
_MAX_VALUES_BYTES = 2**20  # of all values together, because references can expand a small schema

_WRITTEN_REGEX = re.compile(r"(?:[^/\\\n]|\\[^\n])+")  # between slashes in a grammar
_ANY_TEXT = "/(?s:.*)/"
_STRING_KEYWORDS = {"type", "enum", "const", "minLength", "maxLength", "pattern"}
# Keywords that do not restrict a value; `format` is one of them by default (JSON Schema 2020-12).
_ANNOTATIONS = {"title", "description", "default", "examples", "format", "deprecated", "$comment", "$schema", "$id"}
_ARGUMENTS_KEYWORDS = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}


def constrained_field(prompt: Prompt) -> str:
    """The request field of the constraint, for error messages."""
    return "tools" if prompt.constraint is None else prompt.constraint.param


def build_grammar(prompt: Prompt, control_tokens: ControlTokens, stop_ids: frozenset[int], in_reasoning: bool) -> str:
    """The grammar of a constrained prompt's answer; `in_reasoning` means that the prompt ends inside reasoning.

    Raises InvalidRequest, naming the field, for what cannot be expressed. llguidance may still refuse the result.
    """
    grammar = _GrammarBuilder(control_tokens.has_reasoning)
    constraint, tools = prompt.constraint, prompt.tools
    bodies = []
    if constraint is not None and not (tools is not None and tools.required):
        bodies.append(grammar.constrained(constraint))
    if tools is not None:
        calls = grammar.calls(tools)
        free = constraint is None and not tools.required
        bodies.append(f"TEXT? ({calls})?" if free else f"NEWLINES? {calls}")
    body = " | ".join(bodies)
    if not prompt.thinking.enabled:
        return grammar.render(body)
    if ControlToken.ANSWER in control_tokens.ids:
        ends = control_tokens.ids.get(ControlToken.END_ANSWER, -1) in stop_ids
        body = f"{ControlToken.ANSWER.value}? ({body})" + ("" if ends else f" {ControlToken.END_ANSWER.value}?")
    return grammar.render(f"{grammar.reasoning(in_reasoning)} ({body})")


class _GrammarBuilder:
    """Collects grammar rules; expressions are strings."""

    def __init__(self, has_reasoning_tokens: bool) -> None:
        self._has_reasoning_tokens = has_reasoning_tokens
        self._lines = ["TEXT: " + _ANY_TEXT, r"NEWLINES: /\n/"]
        self._values_bytes = 0
        self._types: dict[str, dict[str, JsonTypes]] = {}  # of each tool: the types behind its references

    def render(self, start: str) -> str:
        # Forced text is sampled token by token, so that the model chooses the tokens.
        return "\n".join(['%llguidance {"no_forcing": true}', f"start: {start}", *self._lines, ""])

    def _terminal(self, definition: str) -> str:
        name = f"T{len(self._lines)}"
        self._lines.append(f"{name}: {definition}")
        return name

    def reasoning(self, is_open: bool) -> str:
        """Reasoning before the body, between control tokens or, if the vocabulary has none, between their texts."""
        if self._has_reasoning_tokens:
            begin, rest = ControlToken.THINK.value, f"TEXT {ControlToken.END_THINK.value}"
        else:
            begin, rest = _literal(ControlToken.THINK.value), "until_end_of_thinking"
            self._lines.append(f"{rest}[suffix={_literal(ControlToken.END_THINK.value)}]: {_ANY_TEXT}")
        return rest if is_open else f"(NEWLINES? {begin} {rest})?"

    def constrained(self, constraint: Constraint) -> str:
        """The body of a constraint; a regex or choice is the complete text, without a newline before it."""
        size = len(constraint.value.encode("utf-8", "replace"))
        if size > MAX_CONSTRAINT_BYTES:
            raise InvalidRequest(
                f"{constraint.param} has {size} bytes; at most {MAX_CONSTRAINT_BYTES} are allowed.", constraint.param
            )
        if constraint.kind == "json_object":
            return "NEWLINES? " + _json({"type": "object"})
        if constraint.kind == "regex":
            # Digits are 0 to 9: patterns rarely mean the digits of every script.
            return _regex(constraint.value, "d", constraint.param)
        try:
            value = json.loads(constraint.value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{constraint.param} is not valid JSON.", constraint.param) from error
        if constraint.kind == "json_schema":
            return "NEWLINES? " + _json(check_schema(value, constraint.param))
        if not isinstance(value, list) or not value or not all(isinstance(choice, str) for choice in value):
            raise InvalidRequest(f"{constraint.param} has to be a list of at least one string.", constraint.param)
        return "(" + " | ".join(map(_literal, value)) + ")"

    def calls(self, tools: ToolUse) -> str:
        """Tool calls, one after the other; `required` applies the schema of every tool, as `strict` does."""
        offered = [tool for tool in tools.tools if tools.only in (None, tool.name)]
        if not offered:
            raise InvalidRequest(f"There is no tool {tools.only!r} to call.", "tool_choice")
        size = sum(len(json.dumps(tool.parameters)) for tool in offered)
        if size > MAX_TOOLS_BYTES:
            raise InvalidRequest(
                f"The parameters of the tools have {size} bytes; at most {MAX_TOOLS_BYTES} are allowed.", "tools"
            )
        bodies = [self._call(tool, constrained_arguments=tool.strict or tools.required) for tool in offered]
        self._lines.append(
            f"call: {ControlToken.TOOL_CALL.value} ({' | '.join(bodies)}) {ControlToken.END_TOOL_CALL.value}"
        )
        return r'call ("\n"? call)*' if tools.parallel else "call"

    def _call(self, tool: Tool, constrained_arguments: bool) -> str:
        arguments = self._arguments(_checked(tool)) if constrained_arguments else self._any_arguments()
        return f"{_literal(tool.name + chr(10))} {arguments}"

    def _any_arguments(self, value: str = "TEXT") -> str:
        key = self._terminal(r'/[^<>"\\\x00-\x1f]{1,64}/')
        return f"({self._argument(key, value)})*"

    def _argument(self, key: str, value: str) -> str:
        return (
            f"{ControlToken.ARG_KEY.value} {key} {ControlToken.END_ARG_KEY.value} NEWLINES? "
            f'{ControlToken.ARG_VALUE.value} {value} {ControlToken.END_ARG_VALUE.value} "\\n"'
        )

    def _arguments(self, tool: Tool) -> str:
        """The arguments in the order of the schema; those that are not required are optional."""
        parameters = tool.parameters
        owner = resolve_reference(parameters, parameters)
        if not isinstance(owner, Mapping) or owner.get("type", "object") != "object":
            raise InvalidRequest(f"The parameters of the tool {tool.name!r} have to be of type object.", "tools")
        unknown = set(owner) - _ARGUMENTS_KEYWORDS - _ANNOTATIONS
        if tool.strict and unknown:
            raise InvalidRequest(
                f"The strict tool {tool.name!r} uses {min(unknown)!r} for its arguments, which is not supported.",
                "tools",
            )
        properties = owner.get("properties", {})
        required = owner.get("required", [])
        more = owner.get("additionalProperties", not properties)
        written = []
        for key in [*properties, *(key for key in required if key not in properties)]:
            value = self._value(properties.get(key, {}), tool)
            argument = self._argument(_literal(key), value)
            written.append(argument if key in required else f"({argument})?")
        if more is not False and not properties:
            written.append(self._any_arguments(self._value(more, tool) if isinstance(more, Mapping) else "TEXT"))
        return " ".join(written)

    def _value(self, schema: Any, tool: Tool) -> str:
        """A value as GLM writes it: a string bare, other types as JSON."""
        written = self._value_expression(resolve_reference(schema, tool.parameters), tool)
        self._values_bytes += len(written)
        if self._values_bytes > _MAX_VALUES_BYTES:
            raise InvalidRequest(f"The parameters of the tool {tool.name!r} are too large.", "tools")
        return written

    def _value_expression(self, schema: Any, tool: Tool) -> str:
        if not isinstance(schema, Mapping) or not set(schema) - _ANNOTATIONS:
            return "TEXT"
        keywords = set(schema) - _ANNOTATIONS
        for key in ("anyOf", "oneOf"):
            if keywords == {key} and isinstance(schema[key], list) and schema[key]:
                return "(" + " | ".join(self._value(choice, tool) for choice in schema[key]) + ")"
        if "const" in schema or isinstance(schema.get("enum"), list):
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return "(" + " | ".join(_literal(v if isinstance(v, str) else _compact(v)) for v in values) + ")"
        types = allowed_types(schema, tool.parameters, self._types.setdefault(tool.name, {}))
        if types is None or "string" not in types:
            return _json(_standalone(schema, tool), lenient=not tool.strict)
        if tool.strict and (unknown := keywords - _STRING_KEYWORDS):
            raise InvalidRequest(
                f"The strict tool {tool.name!r} uses {min(unknown)!r} for a string, which is not supported.", "tools"
            )
        others = sorted(types - {"string"})
        string = self._string(schema)
        return f"({string} | {_json({'type': others})})" if others else string

    def _string(self, schema: Mapping[str, Any]) -> str:
        """Bare text with the length and pattern of a schema."""
        limits = []
        if "pattern" in schema:
            limits.append(_regex(anchored(schema["pattern"]), "dw", "tools"))
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if least or most is not None:
            limits.append(f"/(?s:.{{{least:d},{'' if most is None else format(most, 'd')}}})/")
        return self._terminal(" & ".join(limits)) if limits else "TEXT"


def anchored(pattern: str) -> str:
    """A pattern that matches a complete text in which JSON Schema's unanchored `pattern` is found."""
    found = []
    for choice in _alternatives(pattern):
        start, end = choice.startswith("^"), choice.endswith("$") and not choice.endswith("\\$")
        core = choice[start : len(choice) - end]
        found.append(f"{'' if start else '(?s:.*)'}(?:{core}){'' if end else '(?s:.*)'}")
    return "|".join(found)


def _alternatives(pattern: str) -> list[str]:
    """A pattern split at each `|` outside of groups and classes."""
    choices, depth, in_class, escaped = [""], 0, False, False
    for character in pattern:
        if not escaped:
            in_class = character == "[" or (in_class and character != "]")
            if not in_class:
                depth += (character == "(") - (character == ")")
                if character == "|" and depth == 0:
                    choices.append("")
                    continue
        escaped = character == "\\" and not escaped
        choices[-1] += character
    return choices


def _json(schema: dict[str, Any] | bool, lenient: bool = False) -> str:
    # One space, as Python and most models write it; see the module's docstring.
    options = {
        "whitespace_flexible": False,
        "item_separator": ", ?",
        "key_separator": ": ?",
        "lenient": lenient,
    }
    if isinstance(schema, bool):
        return f"%json {json.dumps(schema)}" if not schema else _json({})
    return f"%json {json.dumps({**schema, 'x-guidance': options})}"


def _standalone(schema: Mapping[str, Any], tool: Tool) -> dict[str, Any]:
    """A part of a tool's parameters as a schema of its own, with the definitions that its references need."""
    if '"$ref"' not in json.dumps(schema):
        return dict(schema)
    within = _rebase_references(schema)
    return {**within, "$defs": {"parameters": _rebase_references(tool.parameters)}}


def _rebase_references(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: f"#/$defs/parameters{value[1:]}"
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _rebase_references(value)
            for key, value in schema.items()
        }
    return [_rebase_references(part) for part in schema] if isinstance(schema, list) else schema


def _checked(tool: Tool) -> Tool:
    parameters = check_schema(tool.parameters, "tools", f"The parameters of the tool {tool.name!r}")
    return replace(tool, definition={"function": {"parameters": parameters}})


def _regex(pattern: str, use_ascii: str, param: str) -> str:
    """A caller's pattern between slashes; `use_ascii` lists the classes (d, w, s) that are ASCII only."""
    if not pattern:
        return '""'
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise InvalidRequest(f"{param} has a pattern that ends in a single backslash.", param)
    written = regex_to_lark(pattern, use_ascii=use_ascii)
    if not _WRITTEN_REGEX.fullmatch(written):
        raise InvalidRequest(f"{param} has a pattern that cannot be part of a grammar.", param)
    return f"/{written}/"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # llguidance allows no control character


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
