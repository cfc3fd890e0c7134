"""Answers of a given form: whatever a model would like to say, what it says keeps to its constraint."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from serve_app.contracts import Constraint, Delta, Finished, Thinking, Tool, ToolUse
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.errors import InvalidRequest
from tests.engine.conftest import (
    BYTES,
    EOS,
    MARKED,
    NAMES,
    Bench,
    CountingModel,
    RandomModel,
    ScriptedModel,
    ids_of,
)

SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "lamp": {
                "type": "object",
                "properties": {"colour": {"enum": ["红", "绿", "blue"]}, "on": {"type": "boolean"}},
                "required": ["colour", "on"],
            }
        },
        "required": ["lamp"],
    },
    "arrays": {"type": "array", "items": {"type": "array", "items": {"type": "number"}, "maxItems": 3}, "maxItems": 4},
    "union": {
        "anyOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind"]},
            {"type": "array", "items": {"type": ["string", "null"], "maxLength": 5}, "minItems": 1, "maxItems": 3},
            {"type": "boolean"},
        ]
    },
    "reference": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "值": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["值", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "strings": {
        "type": "object",
        "properties": {
            "plate": {"type": "string", "pattern": "^[京沪粤][A-Z][0-9]{5}$"},
            "short": {"type": "string", "minLength": 2, "maxLength": 4},
            "day": {"type": "string", "format": "date"},
        },
        "required": ["plate", "short", "day"],
        "additionalProperties": False,
    },
}
PATTERNS = [r"\d{4}-(0[1-9]|1[0-2])", r"^[红黄绿]灯( is on)?$", r"[^\n]{3,9}", "a/b\nc", "(yes|no), .{0,5}!"]
CHOICES = ["红灯", "红", "red light", 'a "quoted"\nline', "\\"]


def function(name: str, parameters: dict[str, Any] | None, strict: bool = False) -> Tool:
    return Tool(name, {"type": "function", "function": {"name": name, "parameters": parameters}}, strict)


ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 9},
        "days": {"type": "integer", "minimum": 1, "maximum": 16},
        "unit": {"enum": ["C", "F"]},
        "when": {"anyOf": [{"type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$"}, {"type": "null"}]},
        "code": {"type": "string", "pattern": "^A|Z$", "minLength": 2, "maxLength": 6},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
        "same": {"$ref": "#/properties/unit"},
    },
    "required": ["city", "places"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}
WEATHER = function("weather", ARGUMENTS)
CLOCK = function("clock", None)


def bpe_vocabulary(folder: Path) -> tuple[Vocabulary, frozenset[int]]:
    """A small byte-level BPE, trained, saved and read as a checkpoint's tokenizer is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = [json.dumps(schema, ensure_ascii=False) for schema in SCHEMAS.values()]
    tokenizer.train_from_iterator(texts + ["红灯绿灯黄灯，亮了。 the red light is on\n"] * 20, trainer)
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in NAMES])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    vocabulary = Vocabulary.of(PreTrainedTokenizerFast.from_pretrained(folder), tokenizer.get_vocab_size() + 7)
    return vocabulary, frozenset(vocabulary.names[name] for name in ("<|endoftext|>", "<|user|>", "<|observation|>"))


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def random_bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    vocabulary, stop_ids = MARKED, ScriptedModel.stop_ids
    if request.param == "bpe":
        vocabulary, stop_ids = bpe_vocabulary(tmp_path_factory.mktemp("bpe"))
    one = Bench(RandomModel(vocabulary, stop_ids), slots=16, max_waiting=1000, vocabulary=vocabulary)
    yield one
    one.loop.admission.grammars.close()


def ask_many(b: Bench, name: str, count: int, **fields: Any) -> list[str]:
    """Ask at random, at temperature 1; the names of those whose answer came to its end."""
    names = [f"{name}-{index}" for index in range(count)]
    for index, one in enumerate(names):
        b.ask(one, max_tokens=400, temperature=1.0, seed=index, prompt=fields)
    b.run()
    ended = [one for one in names if b.finished(one).reason != "length"]
    assert len(ended) >= count // 2, f"{len(ended)} of {count} came to an end"
    return ended


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_held_to_a_schema_validates(random_bench: Bench, name: str) -> None:
    constraint = Constraint("json_schema", json.dumps(SCHEMAS[name]))
    for one in ask_many(random_bench, name, 15, constraint=constraint):
        jsonschema.validate(json.loads(random_bench.text(one)), SCHEMAS[name])


def test_a_json_object_is_any_object(random_bench: Bench) -> None:
    for one in ask_many(random_bench, "object", 10, constraint=Constraint("json_object")):
        assert isinstance(json.loads(random_bench.text(one)), dict)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_answer_held_to_a_pattern_matches_it_as_a_whole(random_bench: Bench, pattern: str) -> None:
    for one in ask_many(random_bench, pattern, 8, constraint=Constraint("regex", pattern)):
        assert re.fullmatch(pattern, random_bench.text(one))


def test_an_answer_held_to_choices_is_one_of_them(random_bench: Bench) -> None:
    constraint = Constraint("choice", json.dumps(CHOICES))
    ended = ask_many(random_bench, "choice", 24, constraint=constraint)
    said = {random_bench.text(one) for one in ended}
    assert said <= set(CHOICES)
    assert len(said) > 2


def test_reasoning_is_free_and_what_follows_keeps_to_the_constraint(random_bench: Bench) -> None:
    schema = SCHEMAS["flat"]
    fields = {"constraint": Constraint("json_schema", json.dumps(schema)), "thinking": Thinking(True, budget_tokens=5)}
    ended = ask_many(random_bench, "thoughtful", 24, **fields)
    for one in ended:
        jsonschema.validate(json.loads(random_bench.text(one)), schema)
    thoughtful = [one for one in ended if random_bench.finished(one).usage.reasoning_tokens]
    assert 0 < len(thoughtful) < len(ended)
    assert all(random_bench.finished(one).usage.reasoning_tokens <= 10 for one in thoughtful)


def test_a_required_tool_is_called_as_its_schema_has_it(random_bench: Bench) -> None:
    for one in ask_many(random_bench, "required", 16, tools=ToolUse((WEATHER, CLOCK), required=True)):
        assert random_bench.finished(one).reason == "tool_calls"
        assert random_bench.text(one) == ""
        for name, arguments in random_bench.calls(one):
            assert name in ("weather", "clock")
            if name == "weather":
                jsonschema.validate(json.loads(arguments), ARGUMENTS)


def test_the_one_tool_that_is_wanted_is_called_once(random_bench: Bench) -> None:
    tools = ToolUse((WEATHER, CLOCK), required=True, only="weather", parallel=False)
    for one in ask_many(random_bench, "only", 10, tools=tools, thinking=Thinking(True, budget_tokens=3)):
        ((name, arguments),) = random_bench.calls(one)
        assert name == "weather"
        jsonschema.validate(json.loads(arguments), ARGUMENTS)


def test_strict_tools_are_held_to_their_schema_and_text_stays_free(random_bench: Bench) -> None:
    strict = function("weather", ARGUMENTS, strict=True)
    ended = ask_many(random_bench, "strict", 24, tools=ToolUse((strict, CLOCK)))
    called = [one for one in ended if random_bench.calls(one)]
    assert called
    assert any(random_bench.text(one) for one in ended)
    for one in called:
        for name, arguments in random_bench.calls(one):
            if name == "weather":
                jsonschema.validate(json.loads(arguments), ARGUMENTS)


def test_an_answer_is_text_of_the_given_form_or_calls(random_bench: Bench) -> None:
    constraint = Constraint("choice", json.dumps(CHOICES))
    ended = ask_many(random_bench, "both", 20, constraint=constraint, tools=ToolUse((WEATHER,)))
    called = {one for one in ended if random_bench.calls(one)}
    assert 0 < len(called) < len(ended)
    for one in ended:
        assert random_bench.text(one) in ([""] if one in called else CHOICES)


def test_answers_are_the_same_when_steps_begin_before_the_last_token_is_read() -> None:
    """Also where a completion replaces a sampled token, so that a step begun with that token is computed again."""

    def texts(mixes_prefill_and_decode: bool) -> dict[str, tuple[str, object]]:
        b = Bench(
            RandomModel(MARKED, mixes_prefill_and_decode=mixes_prefill_and_decode), max_waiting=30, vocabulary=MARKED
        )
        for index in range(24):
            constraint = Constraint("json_schema", json.dumps(SCHEMAS["flat"])) if index % 4 else None
            fields = {"constraint": constraint}
            b.ask(f"{index}", max_tokens=20 + index, temperature=1.0, seed=index, logprobs=0, prompt=fields)
        b.run()
        b.loop.admission.grammars.close()
        likely = {name: [d.logprobs for d in events if isinstance(d, Delta)] for name, events in b.events.items()}
        return {name: (b.text(name), list(chain.from_iterable(likely[name]))) for name in b.events}

    assert texts(mixes_prefill_and_decode=True) == texts(mixes_prefill_and_decode=False)


def test_constrained_and_free_rows_do_not_disturb_each_other() -> None:
    def tokens(names: list[str]) -> dict[str, tuple[str, object]]:
        b = Bench(RandomModel(MARKED), vocabulary=MARKED)
        for name in names:
            held = name.startswith("held")
            constraint = Constraint("json_schema", json.dumps(SCHEMAS["nested"])) if held else None
            b.ask(
                name, max_tokens=30, temperature=1.0, seed=1, top_p=0.9, logprobs=1, prompt={"constraint": constraint}
            )
        b.run()
        return {name: (b.text(name), b.finished(name).usage) for name in names}

    names = ["free a", "held a", "free b", "held b"]
    assert tokens(names) == {name: tokens([name])[name] for name in names}


def test_greedy_rows_take_the_likeliest_token_that_is_allowed() -> None:
    b = Bench(CountingModel())  # would go on with B, C, D
    b.ask("a", b"A", prompt={"constraint": Constraint("regex", "[BX][XC]{2}D?")})
    b.run()
    assert b.text("a") == "BCCD"


def test_logprobs_of_a_constrained_row_are_the_models_own() -> None:
    b = Bench(CountingModel())
    b.ask("a", b"A", logprobs=2, prompt={"constraint": Constraint("choice", '["X"]')})
    b.run()
    (delta,) = [event for event in b.events["a"] if type(event).__name__ == "Delta"]
    (one,) = delta.logprobs  # type: ignore[attr-defined]
    assert one.token == b"X"
    assert one.logprob < -9
    assert [token for _, token, _ in one.top] == [b"B", b"X"]  # the likeliest, and the sampled one in the last place


def test_an_answer_that_can_only_end_has_ended() -> None:
    b = Bench(CountingModel())
    b.ask("a", b"A", prompt={"constraint": Constraint("choice", '["BC", "BCD"]')})
    b.ask("b", b"A", prompt={"constraint": Constraint("choice", '["BC", "X"]')})
    b.run()
    assert (b.text("a"), b.finished("a").reason, b.finished("a").usage.completion_tokens) == ("BCD", "stop", 3)
    assert (b.text("b"), b.finished("b").reason, b.finished("b").usage.completion_tokens) == ("BC", "stop", 2)


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|user|>", "<|observation|>"])
def test_every_end_token_may_end_a_whole_answer_and_none_a_part(end: str) -> None:
    b = Bench(ScriptedModel(), vocabulary=MARKED)
    assert isinstance(b.model, ScriptedModel)
    b.model.scripts["a"] = [NAMES[end], *ids_of("1"), NAMES[end]]
    b.ask("a", prompt={"constraint": Constraint("regex", "[0-9]+")})
    b.run()
    assert (b.text("a")[1:], b.finished("a").usage.completion_tokens) == ("1", 3)


def test_a_cut_answer_says_so() -> None:
    b = Bench(CountingModel())
    b.ask("a", b"A", max_tokens=4, prompt={"constraint": Constraint("regex", "[A-Z]{9}")})
    b.run()
    assert (b.text("a"), b.finished("a").reason) == ("BCDE", "length")


MANY_PATTERNS = {"allOf": [{"type": "string", "pattern": f".*{index}.*"} for index in range(40)]}


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (Constraint("json_schema", '{"type": "strng"}'), 'type has to be one of array, .*, not "strng"'),
        (Constraint("json_schema", '{"not": {}}'), 'Unimplemented keys: \\["not"\\]'),
        (Constraint("json_schema", "{"), "not valid JSON"),
        (Constraint("json_schema", "[]"), "has to be a JSON Schema"),
        # Before Python 3.13 the standard library refuses it, later llguidance does.
        (Constraint("json_schema", '{"a":' * 9000 + "1" + "}" * 9000), "not valid JSON|recursion limit exceeded"),
        (Constraint("json_schema", '{"items":' * 300 + "{}" + "}" * 300), "nested too deeply: at most 100 levels"),
        (Constraint("json_schema", '{"$ref": "http://example.com/"}'), "not present in a registry"),
        (Constraint("json_schema", json.dumps({"enum": ["x" * 70_000]})), "at most 65536"),
        (Constraint("json_schema", json.dumps(MANY_PATTERNS)), "takes too long to compile"),
        (Constraint("json_schema", '{"$ref": "#"}'), "the reference '#' leads back to itself"),
        (
            Constraint("json_schema", '{"type": "string", "maxLength": "9})/ & /INJECTED/"}'),
            "maxLength has to be a whole",
        ),
        (Constraint("regex", "a\\"), "single backslash"),
        (Constraint("regex", "["), "unclosed character class"),
        (Constraint("regex", "a(?=b)"), "look-around"),
        (Constraint("regex", "\ud800"), "half a character"),
        (Constraint("choice", "[]"), "at least one string"),
        (Constraint("choice", '["\\ud800"]'), "half a character"),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else f"{value.kind} {value.value[:20]}".encode("ascii", "replace").decode()
    ),
)
def test_a_constraint_that_can_not_be_kept_to_is_refused_in_one_sentence(constraint: Constraint, reason: str) -> None:
    b = Bench(CountingModel())
    b.ask("good", max_tokens=2)
    with pytest.raises(InvalidRequest, match=reason) as raised:
        b.ask("bad", prompt={"constraint": constraint})
    assert raised.value.param == "response_format"
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 600
    b.run()
    assert b.text("good") == "BC"
    b.loop.admission.grammars.close()


TANGLE = {f"d{index}": {"anyOf": [{"$ref": f"#/$defs/d{index + 1}"}] * 4} for index in range(40)}
LOOP = {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}, {"type": "null"}]}}}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"type": "array"}, "of type object"),
        ({"type": "object", "properties": {"a": {"type": "string", "not": {}}}}, "'not' for a string"),
        ({"type": "object", "required": [{"x": 1}]}, "tool 'f': required has to be a list of strings"),
        ({"type": "object", "properties": {"a": {"type": "string", "maxLength": "9})/"}}}, "properties.a.maxLength"),
        ({"type": "object", "minProperties": 1}, "'minProperties' for its arguments"),
        ({"type": "object", "properties": {"a": {"type": "integer", "not": {}}}}, "Unimplemented"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": TANGLE}, "too large"),
        (LOOP, "leads back to itself"),
        ({"type": "object", "properties": {"a": {"enum": ["x" * 300_000]}}}, "at most 262144"),
    ],
)
def test_strict_parameters_that_can_not_be_kept_to_are_refused(parameters: dict[str, Any], reason: str) -> None:
    b = Bench(ScriptedModel(), vocabulary=MARKED)
    with pytest.raises(InvalidRequest, match=reason) as raised:
        b.ask("bad", prompt={"tools": ToolUse((function("f", parameters, strict=True),))})
    assert raised.value.param == "tools"
    b.loop.admission.grammars.close()


def test_a_tool_that_is_not_there_can_not_be_required() -> None:
    b = Bench(ScriptedModel(), vocabulary=MARKED)
    with pytest.raises(InvalidRequest, match="no tool 'x'"):
        b.ask("bad", prompt={"tools": ToolUse((WEATHER,), required=True, only="x")})


def test_rules_that_contradict_a_constraint_are_refused() -> None:
    b = Bench(CountingModel())
    for rules in ({"min_tokens": 1}, {"ignore_eos": True}):
        with pytest.raises(InvalidRequest, match="can't be combined") as raised:
            b.ask("bad", prompt={"constraint": Constraint("json_object")}, **rules)
        assert raised.value.param in rules


def test_ignore_eos_is_named_by_its_own_name_though_preprocess_makes_least_tokens_of_it() -> None:
    b = Bench(CountingModel())
    with pytest.raises(InvalidRequest) as raised:
        b.ask("bad", max_tokens=5, ignore_eos=True, min_tokens=5, prompt={"constraint": Constraint("json_object")})
    assert raised.value.param == "ignore_eos"


def test_a_constraint_that_grows_too_complex_fails_alone() -> None:
    """The pattern asks for a state for every set of places where an `a` was: 2 to the 2,000th."""
    b = Bench(RandomModel(BYTES, frozenset([EOS])))
    b.ask("bad", max_tokens=400, prompt={"constraint": Constraint("regex", r"(\w+|\W+){1,2000}x")})
    b.ask("good", max_tokens=40, temperature=1.0, seed=1)
    b.run()
    (error,) = b.terminals("bad")
    assert isinstance(error, InvalidRequest)
    assert error.message.startswith("response_format is too complex: ")
    assert error.param == "response_format"
    assert isinstance(b.terminals("good")[0], Finished)
    assert b.loop.slots_used() == 0


def test_a_constraint_that_fails_on_a_token_is_too_complex() -> None:
    """The demo model's tokens of several bytes exceed the limits of this pattern: it was a 500."""
    pieces = [b"0a1b2c3d4e5f"[start : start + length] for length in (2, 3, 4) for start in range(8)]
    vocabulary = Vocabulary([*BYTES.token_bytes[:256], b"", *pieces], {})
    b = Bench(RandomModel(vocabulary, frozenset([256])), vocabulary=vocabulary)
    b.ask("bad", max_tokens=400, prompt={"constraint": Constraint("regex", "(?:.{0,3}[0-9a-f].{0,3}){120}")})
    b.run()
    (error,) = b.terminals("bad")
    assert isinstance(error, InvalidRequest)
    assert error.param == "response_format"


def test_a_model_without_end_tokens_ends_with_its_constraint() -> None:
    b = Bench(RandomModel(BYTES, frozenset()))
    b.ask("a", max_tokens=50, temperature=1.0, seed=1, prompt={"constraint": Constraint("regex", "[0-9]{3}")})
    b.run()
    assert re.fullmatch("[0-9]{3}", b.text("a"))
    assert b.finished("a").usage.completion_tokens == 3


def test_reasoning_marked_by_text_is_free_too() -> None:
    model = ScriptedModel()
    model.stop_ids = CountingModel.stop_ids
    model.scripts = {"a": [*b"<think>a < b </think>7"], "b": [*b"<think>why</thi"], "c": [*b"7"]}
    b = Bench(model)
    for name in model.scripts:
        constraint = Constraint("choice", '["7"]')
        b.ask(name, max_tokens=30, prompt={"constraint": constraint, "thinking": Thinking(True)})
    b.run()
    assert [(b.reasoning(name), b.text(name)) for name in "ac"] == [("a < b", "7"), ("", "7")]
    assert b.finished("b").reason == "length"


def test_padding_of_the_head_is_never_sampled_in_a_constraint() -> None:
    b = Bench(RandomModel(MARKED), vocabulary=MARKED)
    b.ask("a", max_tokens=200, temperature=5.0, seed=1, prompt={"constraint": Constraint("regex", "(?s:.*)")})
    sequence = b.loop._inbox[0]
    b.run()
    assert not isinstance(sequence, str)
    sampled = set(sequence.generated) - ScriptedModel.stop_ids
    assert all(MARKED.token_bytes[token_id] for token_id in sampled)
