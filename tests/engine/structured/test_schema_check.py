"""Check of callers' schemas: each wrong keyword is refused by its path, and what says nothing is left out."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.structured.schema_check import check_schema
from serve_app.errors import InvalidRequest


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (5, "f has to be a JSON Schema, an object, not 5."),
        ({"minLength": -1}, "f: minLength has to be a whole number of at least 0, not -1."),
        ({"maxLength": 2.5}, "f: maxLength has to be a whole number of at least 0, not 2.5."),
        ({"maxItems": True}, "f: maxItems has to be a whole number of at least 0, not true."),
        ({"maximum": "9"}, 'f: maximum has to be a number, not "9".'),
        ({"maximum": float("inf")}, "f: maximum has to be a number, not Infinity."),
        ({"pattern": ["a"]}, 'f: pattern has to be a string, not ["a"].'),
        ({"$ref": 5}, "f: $ref has to be a string, not 5."),
        ({"enum": "a"}, 'f: enum has to be a list of values, not "a".'),
        ({"enum": []}, "f: enum has to be a list of values, not []."),
        ({"required": [{"x": 1}]}, 'f: required has to be a list of strings, not [{"x": 1}].'),
        ({"dependentRequired": 5}, "f: dependentRequired has to be an object of lists of strings, not 5."),
        ({"uniqueItems": 1}, "f: uniqueItems has to be true or false, not 1."),
        ({"anyOf": []}, "f: anyOf has to be a list of schemas, not []."),
        ({"properties": ["a"]}, 'f: properties has to be an object of schemas, not ["a"].'),
        (
            {"properties": {"a": {"items": {"anyOf": [{}, {"minLength": "1"}]}}}},
            'f: properties.a.items.anyOf[1].minLength has to be a whole number of at least 0, not "1".',
        ),
        ({"$defs": {"x": 7}}, "f: $defs.x has to be a JSON Schema, an object, not 7."),
        ({"not": []}, "f: not has to be a JSON Schema, an object, not []."),
    ],
)  # fmt: skip
def test_a_wrong_keyword_is_refused_by_its_path(schema: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_schema(schema, "f")
    assert (raised.value.message, raised.value.param) == (message, "f")


@pytest.mark.parametrize(
    ("schema", "checked"),
    [
        (True, True),
        ({"type": "string", "maxLength": 5.0}, {"type": "string", "maxLength": 5}),
        ({"type": "object", "properties": None, "required": None}, {"type": "object"}),
        ({"const": None, "default": None, "title": None}, {"const": None, "default": None}),
        ({"type": ["null", "null"], "required": ["a", "b", "a"]}, {"type": ["null"], "required": ["a", "b"]}),
        ({"x-guidance": {"lenient": True}, "items": {"x-guidance": 1}}, {"items": {}}),
        ({"minimum": 3, "exclusiveMinimum": True}, {"minimum": 3, "exclusiveMinimum": True}),
        ({"items": [{"type": "string"}]}, {"items": [{"type": "string"}]}),
        ({"an unknown keyword": {"minLength": "x"}}, {"an unknown keyword": {"minLength": "x"}}),
    ],
)
def test_what_says_nothing_is_left_out(schema: Any, checked: Any) -> None:
    assert check_schema(schema, "f") == checked


RINGS: list[dict[str, Any]] = [
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}]},
    {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"$defs": {"a/b": {"not": {"$ref": "#/$defs/a~1b"}}}},
    {"anyOf": [{"$ref": "#/anyOf/1"}, {"$ref": "#/anyOf/0"}]},
    {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % 3000}"} for i in range(3000)}},
]


@pytest.mark.parametrize("schema", RINGS, ids=range(len(RINGS)))
def test_a_ring_of_references_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="leads back to itself") as raised:
        check_schema(schema, "f")
    assert raised.value.param == "f"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"$ref": "#"}},
        {"properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
        {"$defs": {"a": {"type": "null"}}, "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/"},
        {"anyOf": [{"$ref": f"#/$defs/{'9' * 5000}"}]},
    ],
)
def test_references_through_a_property_or_an_item_are_no_ring(schema: dict[str, Any]) -> None:
    assert check_schema(schema, "f") == schema


KEYWORDS = st.sampled_from([
    "type", "properties", "required", "items", "anyOf", "allOf", "$ref", "$defs", "maxLength", "minimum", "pattern",
    "enum", "const", "additionalProperties", "not", "uniqueItems", "a",
])  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(KEYWORDS, parts, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(KEYWORDS, JSON, max_size=5))
def test_any_json_is_refused_by_name_or_is_a_schema_for_others_too(schema: dict[str, Any]) -> None:
    try:
        checked = check_schema(schema, "f")
    except InvalidRequest as refused:
        error = refused
    else:
        jsonschema.Draft201909Validator.check_schema(checked)
        return
    assert error.param == "f"
    assert error.message.startswith("f")
