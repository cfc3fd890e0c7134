"""A constrained answer ends within its tokens, whatever the model likes to write."""

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.structured.grammar_completion import CompletionTable, GrammarCompletion, StringScanner

WORDS = [
    b'"}',
    b'"]',
    b'":',
    b'","',
    b'""',
    b"}}",
    b"12",
    b"2026",
    b"true",
    b"null",
    b" the",
    b'{"',
    b'[{"',
    "合格".encode(),
]
TOKENS = [*[bytes([byte]) for byte in range(256)], *WORDS, b""]
END = len(TOKENS) - 1

NUMBER = {"type": "object", "properties": {"kg": {"type": "number"}}, "required": ["kg"], "additionalProperties": False}
LIST = {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}
NESTED = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3},
        "verdict": {"enum": ["合格", "不合格"]},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
    },
    "required": ["name", "verdict", "parts"],
    "additionalProperties": False,
    "$defs": {
        "part": {
            "type": "object",
            "properties": {"id": {"type": "string", "pattern": "^[A-Z]\\d{2}$"}, "n": {"type": "integer"}},
            "required": ["id", "n"],
            "additionalProperties": False,
        }
    },
}
ANY = {"type": "object"}
SCHEMAS = {"number": NUMBER, "list": LIST, "nested": NESTED, "any": ANY}


class Tokenizer:
    """What llguidance asks of a tokenizer."""

    def __init__(self) -> None:
        self.eos_token_id, self.bos_token_id = END, None
        self.tokens = [*TOKENS[:-1], b"<end>"]
        self.special_token_ids = [END]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


TOKENIZER = LLTokenizer(TokenizerWrapper(Tokenizer()))
TABLE = CompletionTable(Vocabulary(TOKENS), len(TOKENS))


def matcher_of(schema: dict[str, Any]) -> LLMatcher:
    return LLMatcher(TOKENIZER, LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False}))


def written(schema: dict[str, Any], most: int, rng: random.Random, liked: str) -> tuple[str, bool]:
    """An answer by a model that draws what it likes wherever the grammar lets it."""
    matcher, completion = matcher_of(schema), GrammarCompletion(TABLE)
    text = b""
    for left in range(most, 0, -1):
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = [token_id for token_id in np.flatnonzero(bits[: len(TOKENS)]) if token_id != END]
        wanted = [token_id for token_id in allowed if any(letter in liked.encode() for letter in TOKENS[token_id])]
        token_id = completion.next_token(matcher, int(rng.choice(wanted or allowed)), left)
        assert matcher.consume_token(token_id)
        text += TOKENS[token_id]
        if matcher.is_stopped() or completion.done:
            break
    return text.decode(errors="replace"), completion.started


@pytest.mark.parametrize("name", SCHEMAS)
@given(st.integers(0, 2**32), st.integers(60, 400), st.sampled_from(["0123456789", "[{", "abc é", '"\\', ",", ""]))
@settings(max_examples=60, deadline=None)
def test_an_answer_of_a_model_that_never_ends_is_whole(name: str, seed: int, most: int, liked: str) -> None:
    text, _ = written(SCHEMAS[name], most, random.Random(seed), liked)
    jsonschema.validate(json.loads(text), SCHEMAS[name])


def test_an_answer_that_ends_by_itself_is_left_alone() -> None:
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 20, "maxItems": 20}
    text, ended = written(schema, 42, random.Random(0), "123456789")
    assert not ended
    assert json.loads(text)


def test_no_ending_is_begun_where_none_fits() -> None:
    text, ended = written(NESTED, 12, random.Random(0), "abc")
    assert not ended
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@settings(deadline=None)
def test_a_scanner_is_outside_of_strings_when_json_ends(value: Any) -> None:
    scanner = StringScanner()
    scanner.read(json.dumps(value).encode())
    assert not scanner.in_string
    scanner.read(b'"open \\" still')
    assert scanner.in_string


def test_where_no_ending_is_found_the_model_goes_on() -> None:
    """The way to a pattern's end leads through letters that the search does not prefer."""
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_regex(r"(7|<(?s:.*)>!)"))
    completion = GrammarCompletion(TABLE)
    for left, letter in zip(range(30, 0, -1), "<a long way to the end>!", strict=False):
        assert completion.next_token(matcher, ord(letter), left) == ord(letter)
        assert matcher.consume_token(ord(letter))
    assert not completion.started
