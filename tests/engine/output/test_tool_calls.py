"""Written calls to JSON: what each value becomes, by the schema and without one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.contracts import Tool, ToolCallDelta, ToolUse
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.tool_calls import ToolCallParser
from serve_app.engine.output.tool_schema import argument_types


def parser(schema: Any = None, parallel: bool = True) -> ToolCallParser:
    parameters = {"type": "object", "properties": {"k": schema} if schema is not None else {}}
    return ToolCallParser(
        ToolUse(
            tuple(
                Tool(name, {"type": "function", "function": {"name": name, "parameters": parameters}})
                for name in ("f", "g", "weather")
            ),
            parallel=parallel,
        )
    )


def pushed(one: ToolCallParser, *written: ControlToken | str) -> list[Any]:
    pieces: list[Any] = []
    for part in written:
        pieces += one.push_token(part) if isinstance(part, ControlToken) else one.push_text(part)
    return pieces


def argument(value: str, key: str = "k") -> tuple[ControlToken | str, ...]:
    return (
        ControlToken.ARG_KEY,
        key,
        ControlToken.END_ARG_KEY,
        "\n",
        ControlToken.ARG_VALUE,
        value,
        ControlToken.END_ARG_VALUE,
        "\n",
    )


def read(value: str, schema: Any = None) -> Any:
    pieces = pushed(parser(schema), ControlToken.TOOL_CALL, "f\n", *argument(value), ControlToken.END_TOOL_CALL)
    assert [piece.name for piece in pieces if piece.name is not None] == ["f"]
    return json.loads("".join(piece.arguments for piece in pieces))["k"]


@pytest.mark.parametrize(
    ("value", "schema", "meant"),
    [
        ("5", {"type": "string"}, "5"),
        ("null", {"type": "string"}, "null"),
        (' a\n"b" ', {"type": "string"}, ' a\n"b" '),
        ("5", {"enum": ["5", "6"]}, "5"),
        ("5", {"type": "integer"}, 5),
        (" 5\n", {"type": "number"}, 5),
        ("2.5", {"type": "integer"}, 2.5),
        ("five", {"type": "integer"}, "five"),
        ("true", {"type": "boolean"}, True),
        ("True", {"type": "boolean"}, True),
        ("None", {"type": ["integer", "null"]}, None),
        ("True", {"type": ["string", "boolean"]}, "True"),
        ("true", {"type": ["string", "boolean"]}, True),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("nullify", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "nullify"),
        ("nul", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "nul"),
        ("", {"type": ["string", "null"]}, ""),
        ("5", {"type": ["string", "integer"]}, 5),
        ("5.5", {"type": ["string", "integer"]}, "5.5"),
        ('{"a": [1, "灯"]}', {"type": "object"}, {"a": [1, "灯"]}),
        ("{'a': 1}", {"type": "object"}, {"a": 1}),
        ("[1, 2]", None, [1, 2]),
        ("5", None, 5),
        ("five", None, "five"),
        ("True", None, "True"),
        ("NaN", None, "NaN"),
        ("1e999", {"type": "number"}, "1e999"),
        ('"\\ud83d"', None, "\ufffd"),
        ("[" * 200 + "]" * 200, None, "[" * 200 + "]" * 200),
        ('"5"', {"type": "integer"}, 5),
        ('"[1, 2]"', {"type": "array"}, [1, 2]),
        ("['a', None]", {"type": "array"}, ["a", None]),
        ('```json\n{"a": 1}\n```', {"type": "object"}, {"a": 1}),
        ('{"a": "b\nc"}', {"type": "object"}, {"a": "b\nc"}),
        ("[" * 5000, None, "[" * 5000),
        ("9" * 5000, None, "9" * 5000),
    ],
)
def test_a_value_is_what_its_schema_says_or_what_it_looks_like(value: str, schema: Any, meant: Any) -> None:
    assert read(value, schema) == meant


def test_a_value_that_may_be_null_is_sent_once_it_can_not_be() -> None:
    one = parser({"type": ["string", "null"]})
    pushed(
        one, ControlToken.TOOL_CALL, "f\n", ControlToken.ARG_KEY, "k", ControlToken.END_ARG_KEY, ControlToken.ARG_VALUE
    )
    assert pushed(one, "nu") == []
    assert pushed(one, "m") == [ToolCallDelta(0, None, '"num', 0)]


def test_a_name_is_sent_as_soon_as_it_is_whole() -> None:
    one = parser()
    assert pushed(one, ControlToken.TOOL_CALL, "\nwea", "ther") == []
    assert pushed(one, "\n") == [ToolCallDelta(0, "weather", "", 0)]
    assert pushed(one, ControlToken.END_TOOL_CALL) == [ToolCallDelta(0, None, "{}", 0)]


def test_a_call_of_a_tool_that_was_not_offered_is_text() -> None:
    one = parser()
    written = (ControlToken.TOOL_CALL, "unheard_of", *argument("1"), ControlToken.END_TOOL_CALL)
    assert pushed(one, *written) == ['unheard_of({"k":1})']
    assert one.calls == 0
    assert pushed(one, ControlToken.TOOL_CALL, "f\n", ControlToken.END_TOOL_CALL)[0] == ToolCallDelta(0, "f", "", 0)
    assert [*pushed(one, *written[:-2]), *one.cut()] == ['unheard_of({"k":1})']


ARGUMENTS = '{"waybill": "ZX5872", "kg": [1, 2.5]}'


@pytest.mark.parametrize(
    "written",
    [
        f'{{"name": "f", "arguments": {ARGUMENTS}}}',
        f'\n{{"arguments": {ARGUMENTS}, "name": "f"}}\n',
        f'{{"name": "f", "parameters": {ARGUMENTS}}}',
        f'{{"type": "function", "function": {{"name": "f", "arguments": {ARGUMENTS}}}}}',
        f'{{"name": "f", "arguments": {json.dumps(ARGUMENTS)}}}',
        f'[{{"name": "f", "arguments": {ARGUMENTS}}}]',
        f"f\n{ARGUMENTS}\n",
        f"\nf\n\n{ARGUMENTS}",
        f"f {ARGUMENTS}",
        f"f({ARGUMENTS})",
        f"f\n({ARGUMENTS})",
        'f {\n"waybill": "ZX5872",\n"kg": [1, 2.5]\n}',
        f'f\n{{"arguments": {ARGUMENTS}}}',
        f'f\n{{"name": "f", "arguments": {ARGUMENTS}}}',
        f'```json\n{{"name": "f", "arguments": {ARGUMENTS}}}\n```',
        f"```\nf\n{ARGUMENTS}\n```",
        f"f\n```json\n{ARGUMENTS}\n```\n",
        f'{{"name": "f", "arguments": {ARGUMENTS}',
        f"f\n{ARGUMENTS[:-1]}",
        f'{{"name": "f", "arguments": {ARGUMENTS[:-1]},}}}}',
        f'{{"name": "f", "input": {ARGUMENTS}}}',
        f'{{"name": "f", "args": {ARGUMENTS}}}',
        f'{{"function": "f", "arguments": {ARGUMENTS}}}',
        f'{{"tool": "f", "arguments": {ARGUMENTS}}}',
        f'{{"tool_calls": [{{"name": "f", "arguments": {ARGUMENTS}}}]}}',
        f'{{"f": {ARGUMENTS}}}',
        f'{{"name": "f", {ARGUMENTS[1:]}',
        "{'name': 'f', 'arguments': {'waybill': 'ZX5872', 'kg': [1, 2.5]}}",
        'f\n{waybill: "ZX5872", kg: [1, 2.5]}',
        'f(waybill="ZX5872", kg=[1, 2.5])',
        f"f\n{json.dumps(ARGUMENTS)}",
        f"f\narguments: {ARGUMENTS}",
        f"f: {ARGUMENTS}",
        f'"f"\n{ARGUMENTS}',
        f"functions.f\n{ARGUMENTS}",
        f"name: f\narguments: {ARGUMENTS}",
        f'{{"name": "f", "arguments": [{ARGUMENTS}]}}',
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_arguments_written_as_json_are_not_lost(written: str, ended: bool) -> None:
    one = parser()
    deltas = pushed(one, ControlToken.TOOL_CALL, *written)  # a character at a time
    deltas += one.push_token(ControlToken.END_TOOL_CALL) if ended else one.close()
    (name,) = [delta.name for delta in deltas if delta.name is not None]
    assert name == "f"
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"waybill": "ZX5872", "kg": [1, 2.5]}
    assert one.calls == 1


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('f {"a": "two\nlines"}', {"a": "two\nlines"}),
        ("f {'a': 'it\\'s', 'b': None, 'c': True}", {"a": "it's", "b": None, "c": True}),
        ('f {"a": "\\d+", "b": -1.5e3,}', {"a": "\\d+", "b": -1500.0}),
        ("f {'a': '\\ud83d\\ude00\\u706f'}", {"a": "😀灯"}),
        ('f {"a": [1, {"b": "c', {"a": [1, {"b": "c"}]}),
        ("f(a=007)", {}),
        ("f {'a': b}", {}),
        ("f a", {}),
    ],
)
def test_json_with_small_errors_is_read_as_far_as_it_is_clear(written: str, arguments: dict[str, Any]) -> None:
    pieces = pushed(parser(), ControlToken.TOOL_CALL, written, ControlToken.END_TOOL_CALL)
    assert json.loads("".join(piece.arguments for piece in pieces if not isinstance(piece, str)) or "{}") == arguments


@pytest.mark.parametrize("between", ["\n", ", ", ""])
@pytest.mark.parametrize("ended", [True, False])
def test_calls_one_after_the_other_are_all_called(between: str, ended: bool) -> None:
    one = parser()
    written = between.join(f'{{"name": "{name}", "arguments": {{"a": 1}}}}' for name in ("f", "x", "g"))
    deltas = [*pushed(one, ControlToken.TOOL_CALL, written), *(one.close() if ended else one.cut())]
    assert deltas == [
        ToolCallDelta(0, "f", "", 0),
        ToolCallDelta(0, None, '{"a":1}', 0),
        'x({"a":1})',
        ToolCallDelta(1, "g", "", 0),
        ToolCallDelta(1, None, '{"a":1}', 0),
    ]


@pytest.mark.parametrize("written", ['{"waybill": "ZX5872"}', "[1, 2]", "{", "two words", '{"name": ""}'])
def test_what_is_no_call_is_returned_as_it_was_written(written: str) -> None:
    one = parser()
    assert pushed(one, ControlToken.TOOL_CALL, written, ControlToken.END_TOOL_CALL) == [written]
    assert one.calls == 0


def test_quotes_around_a_known_key_are_no_part_of_it() -> None:
    for schema, key in (({"type": "string"}, "k"), (None, '"k"')):
        written = (ControlToken.TOOL_CALL, "f\n", *argument("ZX5872", key='"k"'), ControlToken.END_TOOL_CALL)
        assert json.loads("".join(piece.arguments for piece in pushed(parser(schema), *written))) == {key: "ZX5872"}


def test_a_value_whose_beginning_is_not_marked_is_one() -> None:
    for end in ((ControlToken.END_ARG_VALUE, "\n", ControlToken.END_TOOL_CALL), (ControlToken.END_TOOL_CALL,)):
        written = (ControlToken.TOOL_CALL, "f\n", ControlToken.ARG_KEY, "k", ControlToken.END_ARG_KEY, "\nZX5872", *end)
        for schema in (None, {"type": "string"}):
            pieces = pushed(parser(schema), *written)
            assert "".join(piece.arguments for piece in pieces) == '{"k":"ZX5872"}'


def test_a_list_of_calls_is_several_calls() -> None:
    calls = '[{"name": "f", "arguments": {"a": 1}}, {"name": "x"}, {"name": "g"}, {"no": "name"}, 5]'
    deltas = pushed(parser(), ControlToken.TOOL_CALL, calls, ControlToken.END_TOOL_CALL)
    assert deltas == [
        ToolCallDelta(0, "f", "", 0),
        ToolCallDelta(0, None, '{"a":1}', 0),
        "x({})",
        ToolCallDelta(1, "g", "", 0),
        ToolCallDelta(1, None, "{}", 0),
    ]


@pytest.mark.parametrize(
    ("written", "name", "arguments"),
    [
        ('{"name": "f", "arguments": {"a": "b', "f", '{"a": "b'),
        ('{"name": "f", "argum', "f", ""),
        ('{"na', "", ""),
        ('f\n{"a": "b', "f", '{"a": "b'),
        ("f\n", "f", ""),
        ('f\n```json\n{"a": 1}\n``', "f", '{"a": 1}'),
        ('```json\n[{"name": "f", "arguments": {"a": 1}', "f", '{"a": 1}'),
    ],
)
def test_json_that_is_cut_off_is_sent_as_far_as_it_goes(written: str, name: str, arguments: str) -> None:
    one = parser()
    deltas = [*pushed(one, ControlToken.TOOL_CALL, written), *one.cut()]
    assert "".join(delta.name or "" for delta in deltas) == name
    assert "".join(delta.arguments for delta in deltas) == arguments


def test_an_argument_that_is_called_arguments_stays_one() -> None:
    one = ToolCallParser(
        ToolUse((Tool("f", {"function": {"parameters": {"properties": {"arguments": {"type": "object"}}}}}),))
    )
    deltas = pushed(one, ControlToken.TOOL_CALL, 'f\n{"arguments": {"a": 1}}', ControlToken.END_TOOL_CALL)
    assert deltas[1] == ToolCallDelta(0, None, '{"arguments":{"a":1}}', 0)


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["{", "}", "[", '"name"', ":", '"f"', "f", "\n", "(", ")", ",", "1"])).map("".join)
)
def test_any_text_in_a_call_gives_whole_calls(text: str) -> None:
    one = parser()
    deltas = pushed(one, ControlToken.TOOL_CALL, text, ControlToken.END_TOOL_CALL)
    arguments: dict[int, str] = {}
    for delta in deltas:
        if not isinstance(delta, str):
            arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    assert len(arguments) == one.calls
    assert all(isinstance(json.loads(found), dict) for found in arguments.values())


def test_a_call_without_a_name_is_none() -> None:
    one = parser()
    assert pushed(one, ControlToken.TOOL_CALL, "\n", *argument("1"), ControlToken.END_TOOL_CALL) == []
    assert one.calls == 0
    assert pushed(one, ControlToken.TOOL_CALL, "f\n", ControlToken.END_TOOL_CALL)[0] == ToolCallDelta(0, "f", "", 0)


def test_the_second_argument_of_one_name_is_left_out() -> None:
    pieces = pushed(
        parser(),
        ControlToken.TOOL_CALL,
        "f\n",
        *argument("1"),
        *argument("2"),
        *argument("3", "j"),
        ControlToken.END_TOOL_CALL,
    )
    assert "".join(piece.arguments for piece in pieces) == '{"k":1,"j":3}'


def test_control_tokens_that_the_model_forgot_are_understood() -> None:
    written = (
        ControlToken.TOOL_CALL,
        "f",
        ControlToken.ARG_KEY,
        "k",
        ControlToken.ARG_VALUE,
        "1",
        ControlToken.ARG_KEY,
        "j",
        ControlToken.ARG_VALUE,
        "2",
    )
    pieces = pushed(parser(), *written, ControlToken.TOOL_CALL, "g\n", ControlToken.END_TOOL_CALL)
    assert [(piece.index, piece.name) for piece in pieces if piece.name] == [(0, "f"), (1, "g")]
    assert "".join(piece.arguments for piece in pieces) == '{"k":1,"j":2}{}'


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": "number"}, {"number", "integer"}),
        ({"const": 5}, {"integer"}),
        ({"enum": ["a", None]}, {"string", "null"}),
        ({"$ref": "#/$defs/text"}, {"string"}),
        ({"$ref": "#/$defs/a~1b"}, {"boolean"}),
        ({"$ref": "#/$defs/twice"}, {"string"}),
        ({"allOf": [{"type": ["string", "null"]}, {"type": ["null", "object"]}]}, {"null"}),
        ({"type": ["string", "null"], "anyOf": [{"type": "string"}, {"type": "integer"}]}, {"string"}),
        ({"oneOf": [{"type": "string"}, {}]}, None),
        ({"$ref": "#/$defs/itself"}, None),
        ({"$ref": "#/nowhere"}, None),
        ({"$ref": "http://example.com"}, None),
        ({"description": "anything"}, None),
        (True, None),
        (False, set()),
    ],
)
def test_the_types_of_an_argument_are_found_behind_any_schema(schema: Any, types: set[str] | None) -> None:
    definitions = {
        "text": {"type": "string"},
        "a/b": {"type": "boolean"},
        "twice": {"$ref": "#/$defs/text"},
        "itself": {"$ref": "#/$defs/itself"},
    }
    found = argument_types({"type": "object", "properties": {"k": schema}, "$defs": definitions})
    assert found == {"k": None if types is None else frozenset(types)}


def test_parameters_that_are_no_object_name_no_arguments() -> None:
    assert argument_types({"$ref": "#/nowhere"}) == {}
    assert argument_types({"properties": ["k"]}) == {}


def test_types_of_many_references_are_found_in_no_time() -> None:
    definitions = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 10} for i in range(50)}
    parameters = {"properties": {"k": {"$ref": "#/$defs/d0"}}, "$defs": {**definitions, "d50": {"type": "string"}}}
    assert argument_types(parameters) == {"k": frozenset(["string"])}


@pytest.mark.parametrize("levels", [*range(90, 110), *range(960, 1010), 5000])
def test_json_of_any_depth_is_parsed_or_ignored(levels: int) -> None:
    """At 986 levels the engine ended with a RecursionError: they could be read, and not be written."""
    deep = "[" * levels + "]" * levels
    for written, most in ((f'{{"name":"f","arguments":{{"a":{deep}}}}}', 99), (f'f {{"a":{deep}}}', 100)):
        pieces = pushed(parser(), ControlToken.TOOL_CALL, written, ControlToken.END_TOOL_CALL)
        arguments = "".join(piece.arguments for piece in pieces if isinstance(piece, ToolCallDelta))
        assert (deep in arguments) == (levels <= most), arguments[:50]
        assert arguments or pieces == [written]


@pytest.mark.parametrize(
    "written", ['{"name":"f","arguments":{"a":"\\ud83d"}}', 'f {"a":"\\ud83d"}', '{"name":"f\\ud83d"}']
)
def test_half_an_emoji_becomes_the_replacement_character(written: str) -> None:
    """It can't be encoded, so the response failed after the answer was complete."""
    pieces = pushed(parser(), ControlToken.TOOL_CALL, written, ControlToken.END_TOOL_CALL)
    text = "".join(piece if isinstance(piece, str) else piece.arguments for piece in pieces)
    assert "\ufffd" in text
    text.encode()


def test_a_number_that_json_does_not_have_makes_no_arguments() -> None:
    pieces = pushed(parser(), ControlToken.TOOL_CALL, 'f {"a":1e999}', ControlToken.END_TOOL_CALL)
    assert "".join(piece.arguments for piece in pieces) == "{}"


@pytest.mark.parametrize("parallel", [True, False])
def test_a_list_of_calls_is_one_call_where_calls_are_not_parallel(parallel: bool) -> None:
    written = '[{"name":"other","arguments":{}},{"name":"f","arguments":{"a":1}},{"name":"g","arguments":{"a":2}}]'
    pieces = pushed(parser(parallel=parallel), ControlToken.TOOL_CALL, written, ControlToken.END_TOOL_CALL)
    names = [piece.name for piece in pieces if isinstance(piece, ToolCallDelta) and piece.name is not None]
    assert names == (["f", "g"] if parallel else ["f"])


@pytest.mark.parametrize("kind", ["integer", "number", "boolean", "null", "array", "object"])
@pytest.mark.parametrize(
    "value",
    [
        "1,000",
        "2024-01-05",
        "12:30",
        "1/2",
        "007",
        "0x1F",
        "1 000",
        "true or false",
        "nullable",
        "[1],[2]",
        '{"a":1}{}',
    ],
)
def test_what_begins_like_json_and_goes_on_stays_the_text_that_it_is(kind: str, value: str) -> None:
    assert read(value, {"type": kind}) == value
