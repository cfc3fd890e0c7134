"""Grammar injection: whatever a caller sends, the grammar has our rules only, and literals mean themselves."""

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serve_app.contracts import Constraint, Prompt, Sampling, Thinking, Tool, ToolUse
from serve_app.engine.structured.grammar import build_grammar
from serve_app.engine.structured.sandbox_process import GuidanceVocabulary
from serve_app.errors import InvalidRequest
from tests.engine.conftest import MARKED

# What a grammar may have outside of strings, patterns and JSON.
OURS = re.compile(
    r"(start|call|TEXT|NEWLINES|until_end_of_thinking|suffix|T\d+|</?(think|answer|tool_call|arg_key|arg_value)>|[\s:()|&?*=\[\]])*"
)
CONTROL_TOKEN = re.compile(r"</?[a-z_]+>")
QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?:[^/\\\n]|\\.)+/')

PIECES = st.sampled_from([
    '"', "\\", "/", "\n", "\r", "\u2028", "})/ & /INJECTED/", "%json {", "%llguidance", "\nstart: INJECTED\n",
    "<think>", "//", "/*", "#", "(?x)", ")", "(", "[", "]", "{", "}", "|", "灯", "\0", "\\n", "a",
    "INJECTED", '" INJECTED "', "@x",
])  # fmt: skip
HOSTILE = st.lists(PIECES | st.text(max_size=4), max_size=6).map("".join)


def prompt(**fields: Any) -> Prompt:
    thinking = Thinking(True)
    return Prompt("a", np.array([1], dtype=np.int32), (), Sampling(max_tokens=9), 9.0, thinking=thinking, **fields)


def grammar(**fields: Any) -> str:
    return build_grammar(prompt(**fields), MARKED.control_tokens, frozenset(), in_reasoning=False)


def skeleton(text: str) -> str:
    """A grammar without its header, strings, patterns and JSON."""
    header, _, rest = text.partition("\n")
    assert header == '%llguidance {"no_forcing": true}'
    found = ""
    while rest:
        if rest.startswith("%json "):
            _, end = json.JSONDecoder().raw_decode(rest, len("%json "))
            rest = rest[end:]
        elif token := CONTROL_TOKEN.match(rest):
            found, rest = found + token[0], rest[token.end() :]
        elif quoted := QUOTED.match(rest):
            rest = rest[quoted.end() :]
        else:
            found, rest = found + rest[0], rest[1:]
    return found


def assert_only_our_rules(**fields: Any) -> None:
    try:
        text = grammar(**fields)
    except InvalidRequest:
        return
    assert OURS.fullmatch(skeleton(text)), skeleton(text)


@given(HOSTILE)
@example("9})/ & /INJECTED/")
@example("\\")
@example("a\\\\/b")
def test_a_pattern_stays_a_pattern(text: str) -> None:
    assert_only_our_rules(constraint=Constraint("regex", text))
    assert_only_our_rules(tools=strict_tool({"a": {"type": "string", "pattern": text}}))


@given(st.lists(HOSTILE, min_size=1, max_size=3))
def test_choices_stay_literals(choices: list[str]) -> None:
    assert_only_our_rules(constraint=Constraint("choice", json.dumps(choices)))


@given(HOSTILE, HOSTILE, st.one_of(HOSTILE, st.integers(-9, 9), st.none(), st.lists(HOSTILE, max_size=2)))
@example("maxLength", "a", "9})/ & /INJECTED/")
def test_names_keywords_and_values_of_schemas_stay_data(keyword: str, name: str, value: Any) -> None:
    for schema in (
        {keyword: value},
        {"type": "string", "maxLength": value},
        {"type": "string", "minLength": value},
        {"enum": [value, name]},
        {"const": value},
        {"type": "object", "properties": {name: {keyword: value}}, "required": [name]},
        {"type": ["string", name]},
    ):
        assert_only_our_rules(constraint=Constraint("json_schema", json.dumps(schema)))
        assert_only_our_rules(tools=strict_tool({name: schema}, required=[name]))
    assert_only_our_rules(tools=strict_tool({}, name=name))


def strict_tool(properties: dict[str, Any], name: str = "f", required: list[str] | None = None) -> ToolUse:
    parameters = {"type": "object", "properties": properties, "required": required or []}
    return ToolUse((Tool(name, {"type": "function", "function": {"name": name, "parameters": parameters}}, True),))


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    names = sorted(MARKED.control_tokens.ids, key=lambda token: token.name)
    tokens = [*(bytes([index]) for index in range(256)), *(token.value.encode() for token in names), b"<end>"]
    return LLTokenizer(TokenizerWrapper(GuidanceVocabulary(tokens, list(range(256, len(tokens))), len(tokens) - 1)))


@given(text=HOSTILE.filter(bool))
@example(text="\x7f")
def test_a_choice_means_itself_to_llguidance(tokenizer: LLTokenizer, text: str) -> None:
    choices = Constraint("choice", json.dumps([text]))
    written = build_grammar(
        Prompt("a", np.array([1], dtype=np.int32), (), Sampling(max_tokens=9), 9.0, constraint=choices),
        MARKED.control_tokens, frozenset(), in_reasoning=False,
    )  # fmt: skip
    try:
        ids = [*text.encode()]
    except UnicodeEncodeError:
        return
    matcher = LLMatcher(tokenizer, written, log_level=0)
    assert matcher.try_consume_tokens(ids) == len(ids), matcher.get_error()
    assert matcher.is_accepting()
