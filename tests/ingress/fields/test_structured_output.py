"""What the text of an answer must match, in all fields of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.contracts import Constraint
from serve_app.errors import InvalidRequest
from tests.ingress.client import chat, parse_chat

SCHEMA = {"type": "object", "properties": {"颜色": {"enum": ["红", "绿"]}}}
WRITTEN = '{"type":"object","properties":{"颜色":{"enum":["红","绿"]}}}'


def parsed(**fields: Any) -> Constraint | None:
    return parse_chat(chat(**fields)).constraint


def as_format(**json_schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({}, None),
        ({"response_format": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json_object")),
        (
            as_format(name="label", schema=SCHEMA, strict=True, description="A label."),
            Constraint("json_schema", WRITTEN, "response_format.json_schema.schema"),
        ),
        (as_format(name="label", schema={}), Constraint("json_schema", "{}", "response_format.json_schema.schema")),
        ({"guided_json": SCHEMA}, Constraint("json_schema", WRITTEN, "guided_json")),
        ({"guided_json": json.dumps(SCHEMA)}, Constraint("json_schema", WRITTEN, "guided_json")),
        ({"guided_regex": "[0-9]+"}, Constraint("regex", "[0-9]+", "guided_regex")),
        ({"guided_choice": ["OK", "复检"]}, Constraint("choice", '["OK","复检"]', "guided_choice")),
        (
            {"structured_outputs": {"json": SCHEMA}},
            Constraint("json_schema", WRITTEN, "structured_outputs.json"),
        ),
        ({"structured_outputs": {"regex": "a|b"}}, Constraint("regex", "a|b", "structured_outputs.regex")),
        ({"structured_outputs": {"choice": ["a"]}}, Constraint("choice", '["a"]', "structured_outputs.choice")),
    ],
)
def test_every_field_for_it_reaches_the_pipeline(fields: dict[str, Any], constraint: Constraint | None) -> None:
    assert parsed(**fields) == constraint


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "'response_format.json_schema' is required.",
        ),
        (
            as_format(name="label"),
            "response_format.json_schema.schema",
            "'response_format.json_schema.schema' is required.",
        ),
        (
            as_format(name="label", schema=[SCHEMA]),
            "response_format.json_schema.schema",
            "'response_format.json_schema.schema' must be an object.",
        ),
        (
            as_format(name="label", schema={"maximum": float("inf")}),
            "response_format.json_schema.schema",
            "'response_format.json_schema.schema' must have numbers within the range of 64 bits only.",
        ),
        (
            {"response_format": {"type": "xml"}},
            "response_format.type",
            "'response_format.type' is 'xml'; supported here: 'text', 'json_object', 'json_schema'.",
        ),
        ({"response_format": "json"}, "response_format", "'response_format' must be an object."),
        (
            {"guided_json": "{"},
            "guided_json",
            "'guided_json' must be JSON (EOF while parsing an object at line 1 column 1).",
        ),
        ({"guided_json": "[]"}, "guided_json", "'guided_json' must be an object."),
        ({"guided_regex": ""}, "guided_regex", "'guided_regex' must have 1 or more characters."),
        ({"guided_choice": []}, "guided_choice", "'guided_choice' must have 1 or more entries, not 0."),
        ({"guided_choice": [1]}, "guided_choice[0]", "'guided_choice[0]' must be a valid string, not 1."),
        (
            {"structured_outputs": {"grammar": "root ::= x"}},
            "structured_outputs.grammar",
            "'structured_outputs.grammar' is not a field of this request.",
        ),
        (
            {"guided_regex": "a", "guided_choice": ["a"]},
            "guided_choice",
            "'guided_choice' and 'guided_regex' exclude each other; give one of them.",
        ),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs.regex",
            "'structured_outputs.regex' and 'response_format' exclude each other; give one of them.",
        ),
    ],
)
def test_a_wrong_constraint_is_named_with_a_sentence(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parsed(**fields)
    assert (raised.value.param, raised.value.message) == (param, message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab猫"\\\n', max_size=3), inner, max_size=3),
)


@given(schema=st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_a_schema_arrives_as_it_was_sent(schema: dict[str, Any]) -> None:
    held = parsed(**as_format(name="any", schema=schema))
    assert held is not None
    assert json.loads(held.value) == schema
