"""What an answer has to look like, written as a grammar for llguidance.

An answer is reasoning (if the model may reason), then a body: what the request's constraint says, calls
of its tools, or text and calls. Control tokens stand in the grammar as special tokens, so no text can imitate them.
JSON has at most one space after a comma or colon: a weak model would otherwise fill its answer with them.
Source of the syntax: llguidance docs/syntax.md and docs/json_schema.md; of a call: the chat template of
GLM-4.5V / 4.6V.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark

from serve_app.contracts import Constraint, Prompt, Tool, ToolUse
from serve_app.engine.output.control_tokens import ControlToken, ControlTokens
from serve_app.engine.output.tool_schema import argument_types, resolve_reference
from serve_app.errors import InvalidRequest

MAX_CONSTRAINT_BYTES = 64 * 2**10
MAX_TOOLS_BYTES = 256 * 2**10
_MAX_VALUES_BYTES = 2**20  # of all values written out: references can make much of a small schema

_ANY_TEXT = "/(?s:.*)/"
_STRING_KEYWORDS = {"type", "enum", "const", "minLength", "maxLength", "pattern"}
# Keywords that say nothing about a value; `format` is one of them unless a validator chooses otherwise.
_ANNOTATIONS = {"title", "description", "default", "examples", "format", "deprecated", "$comment", "$schema", "$id"}
_ARGUMENTS_KEYWORDS = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}


def is_constrained(prompt: Prompt) -> bool:
    """Whether anything but the model's own will decides what the answer looks like."""
    tools = prompt.tools
    return prompt.constraint is not None or (
        tools is not None and (tools.required or any(tool.strict for tool in tools.tools))
    )


def build_grammar(prompt: Prompt, control_tokens: ControlTokens, stop_ids: frozenset[int], in_reasoning: bool) -> str:
    """The grammar of a constrained prompt's answer, in llguidance's dialect of Lark.

    `in_reasoning`: the prompt ends inside reasoning. Raises InvalidRequest, naming the field, for what
    can be neither kept nor told apart. Whether llguidance accepts the grammar is for it to say.
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
    """Rules under way; expressions are handed around as text."""

    def __init__(self, has_reasoning_tokens: bool) -> None:
        self._has_reasoning_tokens = has_reasoning_tokens
        self._lines = ["TEXT: " + _ANY_TEXT, r"NEWLINES: /\n/"]
        self._values_bytes = 0

    def render(self, start: str) -> str:
        # Forced text is drawn token by token like any other, as the model itself would cut it.
        return "\n".join(['%llguidance {"no_forcing": true}', f"start: {start}", *self._lines, ""])

    def _terminal(self, definition: str) -> str:
        name = f"T{len(self._lines)}"
        self._lines.append(f"{name}: {definition}")
        return name

    def reasoning(self, is_open: bool) -> str:
        """What comes before the body; marked by tokens, or by text where the vocabulary has no tokens for it."""
        if self._has_reasoning_tokens:
            begin, rest = ControlToken.THINK.value, f"TEXT {ControlToken.END_THINK.value}"
        else:
            begin, rest = _literal(ControlToken.THINK.value), "until_end_of_thinking"
            self._lines.append(f"{rest}[suffix={_literal(ControlToken.END_THINK.value)}]: {_ANY_TEXT}")
        return rest if is_open else f"(NEWLINES? {begin} {rest})?"

    def constrained(self, constraint: Constraint) -> str:
        """The body that a constraint asks for; a pattern or choice is the whole text, without a newline before it."""
        size = len(constraint.value.encode("utf-8", "replace"))
        if size > MAX_CONSTRAINT_BYTES:
            raise InvalidRequest(
                f"{constraint.param} has {size} bytes; at most {MAX_CONSTRAINT_BYTES} are taken", constraint.param
            )
        if constraint.kind == "json_object":
            return "NEWLINES? " + _json({"type": "object"})
        if constraint.kind == "regex":
            # Digits are 0 to 9: a pattern for numbers is rarely meant to allow those of every script.
            return f"/{regex_to_lark(constraint.value, use_ascii='d')}/" if constraint.value else '""'
        try:
            value = json.loads(constraint.value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{constraint.param} is not JSON that can be read", constraint.param) from error
        if constraint.kind == "json_schema":
            if not isinstance(value, (dict, bool)):
                raise InvalidRequest(f"{constraint.param} has to be a JSON Schema: an object", constraint.param)
            return "NEWLINES? " + _json(value)
        if not isinstance(value, list) or not value or not all(isinstance(choice, str) for choice in value):
            raise InvalidRequest(f"{constraint.param} has to be a list of at least one string", constraint.param)
        return "(" + " | ".join(map(_literal, value)) + ")"

    def calls(self, tools: ToolUse) -> str:
        """Calls of the tools, one after the other; `required` holds every tool to its schema, as `strict` does."""
        offered = [tool for tool in tools.tools if tools.only in (None, tool.name)]
        if not offered:
            raise InvalidRequest(f"there is no tool {tools.only!r} to be called", "tool_choice")
        size = sum(len(json.dumps(tool.parameters)) for tool in offered)
        if size > MAX_TOOLS_BYTES:
            raise InvalidRequest(
                f"the tools' parameters have {size} bytes; at most {MAX_TOOLS_BYTES} can be kept to", "tools"
            )
        bodies = [self._call(tool, constrained_arguments=tool.strict or tools.required) for tool in offered]
        self._lines.append(
            f"call: {ControlToken.TOOL_CALL.value} ({' | '.join(bodies)}) {ControlToken.END_TOOL_CALL.value}"
        )
        return r'call ("\n"? call)*' if tools.parallel else "call"

    def _call(self, tool: Tool, constrained_arguments: bool) -> str:
        arguments = self._arguments(tool) if constrained_arguments else self._any_arguments()
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
        """The arguments in the schema's order; those that are not required may be left out."""
        parameters = tool.parameters
        owner = resolve_reference(parameters, parameters)
        if not isinstance(owner, Mapping) or owner.get("type", "object") != "object":
            raise InvalidRequest(f"the parameters of the tool {tool.name!r} have to be of type object", "tools")
        unknown = set(owner) - _ARGUMENTS_KEYWORDS - _ANNOTATIONS
        if tool.strict and unknown:
            raise InvalidRequest(
                f"the strict tool {tool.name!r} says {min(unknown)!r} of its arguments object, which can't be kept to",
                "tools",
            )
        properties = owner.get("properties") or {}
        required = owner.get("required") or []
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise InvalidRequest(
                f"the parameters of the tool {tool.name!r} need properties as an object and required as a list", "tools"
            )
        more = owner.get("additionalProperties", not properties)
        written = []
        for key in [*properties, *(key for key in required if key not in properties)]:
            value = self._value(properties.get(key, {}), tool)
            argument = self._argument(_literal(str(key)), value)
            written.append(argument if key in required else f"({argument})?")
        if more is not False and not properties:
            written.append(self._any_arguments(self._value(more, tool) if isinstance(more, Mapping) else "TEXT"))
        return " ".join(written)

    def _value(self, schema: Any, tool: Tool) -> str:
        """A value as GLM writes it: a string bare, anything else as JSON."""
        written = self._value_expression(resolve_reference(schema, tool.parameters), tool)
        self._values_bytes += len(written)
        if self._values_bytes > _MAX_VALUES_BYTES:
            raise InvalidRequest(f"the parameters of the tool {tool.name!r} are too large to be kept to", "tools")
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
        types = argument_types({**tool.parameters, "properties": {"": schema}})[""]
        if types is None or "string" not in types:
            return _json(_standalone(schema, tool), lenient=not tool.strict)
        if tool.strict and (unknown := keywords - _STRING_KEYWORDS):
            raise InvalidRequest(
                f"the strict tool {tool.name!r} says {min(unknown)!r} of a string, which can't be kept to", "tools"
            )
        others = sorted(types - {"string"})
        string = self._string(schema)
        return f"({string} | {_json({'type': others})})" if others else string

    def _string(self, schema: Mapping[str, Any]) -> str:
        """Bare text of the length and pattern that a schema asks for."""
        limits = []
        if isinstance(pattern := schema.get("pattern"), str):
            limits.append(f"/{regex_to_lark(anchored(pattern), use_ascii='dw')}/")
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        if least or most != "":
            limits.append(f"/(?s:.{{{least},{most}}})/")
        return self._terminal(" & ".join(limits)) if limits else "TEXT"


def anchored(pattern: str) -> str:
    """A pattern that matches a whole text where JSON Schema's, which is searched for, is found in it."""
    found = []
    for choice in _alternatives(pattern):
        start, end = choice.startswith("^"), choice.endswith("$") and not choice.endswith("\\$")
        core = choice[start : len(choice) - end]
        found.append(f"{'' if start else '(?s:.*)'}(?:{core}){'' if end else '(?s:.*)'}")
    return "|".join(found)


def _alternatives(pattern: str) -> list[str]:
    """A pattern cut at the `|` outside of groups and classes."""
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
    # One space, as Python and most models write it; more would let a weak model go on for ever.
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
    """A part of a tool's parameters that can stand alone: local references still lead into the whole."""
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


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
