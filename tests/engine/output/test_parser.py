"""Ids to channels: reasoning, text, boxes, tool calls, however the tokenizer cuts them."""

import json
import random
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from serve_app.contracts import (
    Constraint,
    Delta,
    Picture,
    Prompt,
    Sampling,
    Thinking,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    ToolUse,
)
from serve_app.engine.output import unmarked_calls
from serve_app.engine.output.deltas import AnyDelta
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.output.json_calls import parse_calls
from serve_app.engine.output.parser import HELD_TOKENS, OutputParser
from tests.engine.conftest import MARKED, NAMES, ids_of

THINKING = Thinking(enabled=True)
WEATHER = Tool(
    "weather",
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "unit": {"enum": ["C", "F"]},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "extra": {"type": ["object", "array", "boolean", "number", "null"]},
                },
            },
        },
    },
)
TOOLS = ToolUse((WEATHER,))
WITHOUT_TOKENS = Vocabulary(MARKED.token_bytes, {"<|assistant|>": NAMES["<|assistant|>"]})


@dataclass
class Said:
    """What came out of a parser."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    boxed: list[str] = field(default_factory=list)
    pieces: list[AnyDelta] = field(default_factory=list)
    parser: OutputParser | None = None

    @property
    def arguments(self) -> list[Any]:
        return [json.loads(arguments) for _, arguments in self.calls]


def prompt(**fields: Any) -> Prompt:
    given: dict[str, Any] = {
        "id": "a",
        "token_ids": np.array(ids_of("Q<|assistant|>"), dtype=np.int32),
        "pictures": (),
        "sampling": Sampling(max_tokens=9),
        "deadline_s": 60.0,
    }
    return Prompt(**{**given, **fields})


def read(
    answer: str | list[int],
    vocabulary: Vocabulary = MARKED,
    cut: bool = False,
    rng: random.Random | None = None,
    **fields: Any,
) -> Said:
    parser = OutputParser(vocabulary, prompt(**fields))
    said = Said(parser=parser)
    token_ids = ids_of(answer, rng) if isinstance(answer, str) else answer
    for token_id in token_ids:
        parser.push(token_id)
        said.pieces += parser.take_deltas()
        if parser.stopped:
            break
    (parser.truncate if cut else parser.finish)()
    said.pieces += parser.take_deltas()
    for piece in said.pieces:
        if isinstance(piece, ToolCallDelta):
            if piece.name is not None:
                assert piece.index == len(said.calls)
                said.calls.append([piece.name, ""])
            assert piece.name is not None or piece.arguments
            said.calls[piece.index][1] += piece.arguments
        elif piece.channel == "text":
            assert piece.text
            said.text += piece.text
        else:
            assert piece.text
            said.reasoning += piece.text
    said.boxed = [one.text for one in parser.boxed]
    assert sum(piece.tokens for piece in said.pieces) <= len(token_ids)
    return said


def call(name: str, **arguments: str) -> str:
    written = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in arguments.items())
    return f"<tool_call>{name}\n{written}</tool_call>"


# -- reasoning


@pytest.mark.parametrize(
    ("answer", "reasoning", "text"),
    [
        ("<think>why</think>\nbecause", "why", "because"),
        ("\n<think>\nwhy\n\n</think>\n\n\nbecause\n", "why", "because\n"),
        ("<think></think>\nbecause", "", "because"),
        ("<think>why", "why", ""),
        ("<think>why \n", "why", ""),
        ("because", "", "because"),
        ("</think>\nbecause", "", "because"),
        ("so </think>because", "so", "because"),
        ("\n so\n</think>\n\nbecause", "so", "because"),
        ("so <|begin_of_box|>5<|end_of_box|></think>because", "so 5", "because"),
        ("so </think>be</think>cause", "so", "because"),
        ("so <think>why</think>because", "why", "so because"),
        ("so <think>why<think> not</think>because", "why not", "so because"),
        ("<think>a</think>b <think>c</think>d", "a\nc", "b d"),
        ("<think>why<answer>because</answer>", "why", "because"),
        ("why<answer>because</answer>", "why", "because"),
        ("<think>I write <answer> next</think><answer>because</answer>", "I write\nnext", "because"),
        ("so <think>because", "", "so because"),
        ("<think>why <|begin_of_box|>5<|end_of_box|></think>because", "why 5", "because"),
        ("<think>why</think><answer>because</answer>", "why", "because"),
        ("<think>why</think>\n<answer>\nbecause\n</answer>", "why", "because\n"),
    ],
)
def test_reasoning_is_apart_from_the_text(answer: str, reasoning: str, text: str) -> None:
    said = read(answer, thinking=THINKING)
    assert (said.reasoning, said.text) == (reasoning, text)


@pytest.mark.parametrize(
    ("question", "reasoning", "text"),
    [
        ("Q<|assistant|><think>", "why", "because"),
        ("Q<|assistant|>\n<think>\n", "why", "because"),
        ("Q<|assistant|>\n<think></think>\n", "", "whybecause"),
        ("Q<|assistant|><think>a</think>b<|user|>Q<|assistant|>", "why", "because"),
        ("<think>Q<|user|>Q<|assistant|>", "why", "because"),
    ],
)
def test_a_prompt_that_ends_inside_reasoning_has_it_continued(question: str, reasoning: str, text: str) -> None:
    said = read("why</think>because", token_ids=np.array(ids_of(question), dtype=np.int32), thinking=THINKING)
    assert (said.reasoning, said.text) == (reasoning, text)


@pytest.mark.parametrize(
    ("answer", "reasoning", "text"),
    [
        ("<think>why</think><answer>because</answer>", "why", "because"),
        ("\n<think>\nwhy\n</think>\n<answer>\nbecause</answer>\n", "why", "because\n"),
        ("<think>a < b </thin k></think>c </answer> d", "a < b </thin k>", "c </answer> d"),
        ("<think>why</think>because", "why", "because"),
        ("why</think>because", "why", "because"),
        ("<thinner> is a word", "", "<thinner> is a word"),
        ("<thi", "", "<thi"),
        ("a <think>b</think>", "", "a <think>b</think>"),
        ("<think>why</think>\n<answ", "why", "<answ"),
        ("<think>why</thi", "why</thi", ""),
    ],
)
def test_control_tokens_without_tokens_are_read_as_text_where_they_can_stand(
    answer: str, reasoning: str, text: str
) -> None:
    spelled = [byte for part in [answer.encode()] for byte in part]
    said = read(spelled, WITHOUT_TOKENS, thinking=THINKING)
    assert (said.reasoning, said.text) == (reasoning, text)
    whole = Vocabulary([answer.encode()], WITHOUT_TOKENS.names)
    said = read([0], whole, thinking=THINKING, token_ids=np.array([0], dtype=np.int32))
    assert (said.reasoning, said.text) == (reasoning, text)


def test_a_prompt_that_ends_in_a_think_mark_written_as_text_has_it_continued() -> None:
    question = [*b"<think>", NAMES["<|assistant|>"], *b"\n<think>\n"]
    said = read(
        [*b"why</think>because"], WITHOUT_TOKENS, thinking=THINKING, token_ids=np.array(question, dtype=np.int32)
    )
    assert (said.reasoning, said.text) == ("why", "because")


def test_without_thinking_control_tokens_written_as_text_are_text() -> None:
    assert read([*b"<think>a</think>"], WITHOUT_TOKENS).text == "<think>a</think>"


def test_the_end_of_reasoning_without_its_beginning() -> None:
    """Tokens that a GLM model sampled: reasoning and answer were glued together."""
    said = read("The label says 5872.</think>\nZX5872", thinking=THINKING)
    assert (said.reasoning, said.text) == ("The label says 5872.", "ZX5872")
    assert said.parser is not None
    assert said.parser.reasoning_tokens == len(ids_of("The label says 5872.</think>"))
    assert read("why</think>because", thinking=Thinking(False)).text == "whybecause"
    constrained = read("why</think>because", thinking=THINKING, constraint=Constraint("json_object"))
    assert (constrained.reasoning, constrained.text) == ("", "whybecause")


def test_text_is_held_for_the_end_of_reasoning_no_longer_than_a_limit() -> None:
    parser = OutputParser(MARKED, prompt(thinking=THINKING))
    for _ in range(HELD_TOKENS):
        parser.push(ord("a"))
    assert parser.take_deltas() == []
    parser.push(ord("a"))
    (delta,) = parser.take_deltas()
    assert isinstance(delta, Delta)
    assert (len(delta.text), delta.channel) == (HELD_TOKENS + 1, "text")
    said = read("a STOP b</think>c", thinking=THINKING, sampling=Sampling(max_tokens=9, stop=("STOP",)))
    assert (said.reasoning, said.text) == ("", "a ")


def test_a_box_in_held_text_is_one_if_the_text_is_the_answer() -> None:
    for end in ("<|end_of_box|>", ""):
        said = read(f"so <|begin_of_box|>5{end}", thinking=THINKING)
        assert (said.reasoning, said.text, said.boxed) == ("", "so 5", ["5"])
    said = read("a <|begin_of_box|>b<|end_of_box|> STOP c", thinking=THINKING, sampling=Sampling(stop=("STOP",)))
    assert (said.text, said.boxed) == ("a b ", ["b"])


def test_reasoning_in_the_text_has_its_tokens_and_logprobs() -> None:
    answer = "so <think>why</think>because"
    said = read(answer, thinking=THINKING)
    assert said.parser is not None
    assert said.parser.reasoning_tokens == len(ids_of("<think>why</think>"))
    emitted = emitted_with_logprobs(answer, thinking=THINKING)
    for channel, text in (("reasoning", b"why"), ("text", b"so because")):
        assert b"".join(tokens for name, _, tokens in emitted if name == channel) == text


def test_reasoning_tokens_are_counted_with_their_marks() -> None:
    said = read("<think>abc</think>d", thinking=THINKING)
    assert said.parser is not None
    assert (said.parser.reasoning_tokens, said.parser.thinking_tokens) == (5, 3)
    spelled = read([*b"<think>abc</think>d"], WITHOUT_TOKENS, thinking=THINKING)
    assert spelled.parser is not None
    assert spelled.parser.reasoning_tokens == len(b"<think>abc</think>")


# -- text


@pytest.mark.parametrize(
    ("answer", "text"),
    [("\nA", "A"), ("\n\nA", "\nA"), (" A", " A"), ("\n", ""), (" \n", " \n"), ("A\n", "A\n"), ("", "")],
)
def test_one_newline_before_the_text_is_dropped(answer: str, text: str) -> None:
    assert read(answer).text == text


@pytest.mark.parametrize("kind", ["regex", "choice"])
def test_text_held_to_a_pattern_keeps_every_newline(kind: Any) -> None:
    assert read("\n A\n", constraint=Constraint(kind, "")).text == "\n A\n"


def test_raw_text_keeps_all_but_marks() -> None:
    answer = "\n<think>a</think>\n<tool_call>b</tool_call><|begin_of_box|>[1,2,3,4]<|end_of_box|> "
    said = read(answer, raw=True, tools=TOOLS, thinking=THINKING)
    assert (said.text, said.reasoning, said.calls, said.boxed) == ("\na\nb[1,2,3,4] ", "", [], [])


def test_other_special_tokens_have_no_text() -> None:
    assert read("a/nothink<|assistant|>b").text == "ab"


def test_a_mark_inside_a_character_ends_it_unseen() -> None:
    half = list("灯".encode()[:2])
    assert read([*half, NAMES["<|begin_of_box|>"], *"灯".encode(), NAMES["<|end_of_box|>"]]).text == "灯"


def test_a_stop_string_counts_in_the_text_only() -> None:
    sampling = Sampling(max_tokens=9, stop=("STOP",))
    said = read("<think>a STOP b</think>c STOP d", sampling=sampling, thinking=THINKING)
    assert (said.reasoning, said.text) == ("a STOP b", "c ")
    said = read(call("weather", city="STOP") + "c STOP d", sampling=sampling, tools=TOOLS)
    assert (said.arguments, said.text) == ([{"city": "STOP"}], "c ")


def test_a_stop_string_that_would_begin_before_min_tokens_is_text() -> None:
    said = read([*b"a.b.c"], sampling=Sampling(max_tokens=9, min_tokens=2, stop=(".",)))
    assert said.text == "a.b"


# -- boxes


def test_what_is_boxed_stays_in_the_text_and_is_sent_apart() -> None:
    picture = Picture(np.zeros((28, 28, 3), dtype=np.uint8), "p", 1, (1000, 2000))
    said = read(
        "The answer is <|begin_of_box|>[[1,2,3,4]]<|end_of_box|>, <|begin_of_box|> so <|end_of_box|>.",
        pictures=(picture,),
    )
    assert said.text == "The answer is [[1,2,3,4]],  so ."
    assert said.parser is not None
    first, second = said.parser.boxed
    assert (first.text, second.text, second.boxes) == ("[[1,2,3,4]]", "so", ())
    assert [(box.thousandths, box.pixels, box.picture) for box in first.boxes] == [((1, 2, 3, 4), (1, 4, 3, 8), 0)]


def test_regions_without_box_control_tokens_are_text_alone() -> None:
    said = read("[[1,2,3,4]]")
    assert (said.text, said.boxed) == ("[[1,2,3,4]]", [])


def test_an_open_box_counts_if_the_model_ended_the_answer_and_not_if_it_was_cut() -> None:
    assert read("<|begin_of_box|>5").boxed == ["5"]
    assert read("<|begin_of_box|>5", cut=True).boxed == []


# -- tool calls


def test_calls_are_sent_by_name_and_arguments() -> None:
    answer = "Let me see. \n" + call("weather", city="北京", days="3", unit="C") + "\n" + call("weather") + "\n"
    said = read(answer, tools=TOOLS)
    assert said.text == "Let me see."
    assert said.calls == [["weather", '{"city":"北京","days":3,"unit":"C"}'], ["weather", "{}"]]


def test_a_call_of_a_tool_that_was_not_offered_is_named_in_the_text() -> None:
    said = read("I ask." + call("bank", iban="1") + call("weather"), tools=TOOLS)
    assert (said.text, said.calls) == ('I ask.\nbank({"iban":1})', [["weather", "{}"]])
    alone = read(call("bank"), tools=TOOLS)
    assert alone.parser is not None
    assert (alone.text, alone.parser.has_tool_calls) == ("bank({})", False)
    assert (
        read(call("bank", iban="12 STOP 3"), tools=TOOLS, sampling=Sampling(stop=("STOP",))).text == 'bank({"iban":"12 '
    )


@pytest.mark.parametrize(
    "written", ['{"name": "weather", "arguments": {"city": "北京"}}', 'weather\n{"city": "北京"}\n']
)
def test_a_call_written_as_json_keeps_its_arguments(written: str) -> None:
    """Tokens that a GLM model sampled: the arguments were lost."""
    said = read(f"<tool_call>{written}</tool_call>", tools=TOOLS)
    assert (said.text, said.calls) == ("", [["weather", '{"city":"北京"}']])
    cut = read(f"<tool_call>{written[:-8]}", tools=TOOLS, cut=True)
    assert cut.calls[0][0] == "weather"
    assert cut.calls[0][1].startswith('{"city"')


def test_a_call_ends_reasoning() -> None:
    said = read("<think>I call. " + call("weather"), tools=TOOLS, thinking=THINKING)
    assert (said.reasoning, said.text, said.calls) == ("I call.", "", [["weather", "{}"]])


def test_reasoning_that_goes_on_after_a_call_is_no_text() -> None:
    answer = "<think>I call. " + call("weather") + call("weather") + " Then I wait.</think>Done."
    said = read(answer, tools=TOOLS, thinking=THINKING)
    assert (said.reasoning, said.text, len(said.calls)) == ("I call.\nThen I wait.", "Done.", 2)
    said = read("<think>I call. " + call("weather") + "\nDone.", tools=TOOLS, thinking=THINKING)
    assert (said.reasoning, said.text) == ("I call.", "Done.")


def test_a_call_that_reasoning_only_mentions_is_reasoning() -> None:
    said = read("<think>I write <tool_call> here</think>Done.", tools=TOOLS, thinking=THINKING)
    assert (said.reasoning, said.text, said.calls) == ("I write\nhere", "Done.", [])
    begun = '<think>I call <tool_call>{"name": "weather"}</think>Done.'
    said = read(begun, tools=TOOLS, thinking=THINKING)
    assert (said.reasoning, said.text, said.calls) == ("I call", "Done.", [["weather", "{}"]])


@pytest.mark.parametrize("before", ["", "I call.\n", "I call.\n\n", "weather\n"])
@pytest.mark.parametrize("thinking", [THINKING, Thinking(False)])
def test_a_call_without_its_beginning_is_one(before: str, thinking: Thinking) -> None:
    begun = call("weather", city="Paris").removeprefix("<tool_call>")
    as_json = '{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
    for written in (begun, begun.replace("\n", "", 1), as_json, as_json.replace(" {", "\n {") + call("weather")):
        for seed in range(5):
            said = read(before + written, rng=random.Random(seed), tools=TOOLS, thinking=thinking)
            assert (said.text, said.reasoning) == (before.rstrip(), "")
            assert said.calls[0] == ["weather", '{"city":"Paris"}']
    said = read("I call." + call("weather") + "\n" + begun, tools=TOOLS)
    assert (said.text, len(said.calls)) == ("I call.", 2)


def test_text_that_may_be_a_call_without_its_beginning_is_held_until_it_is_clear() -> None:
    parser = OutputParser(MARKED, prompt(tools=TOOLS))
    emitted = []
    for token_id in b"we\nwed\nweather\nis":
        parser.push(token_id)
        emitted.append("".join(delta.text for delta in parser.take_deltas() if isinstance(delta, Delta)))
    assert emitted == ["", "", "", "we", "", "\nwed", *[""] * 9, "\nweather\ni", "s"]
    for text in ("weather", '{"name": "weather", "arguments": {}}', "so weather", '{"name": "x"}'):
        assert read(text, tools=TOOLS).text == text
    sampling = Sampling(max_tokens=9, stop=("STOP",))
    said = read('{"name": "weather"} STOP more', tools=TOOLS, sampling=sampling)
    assert said.text == '{"name": "weather"} '
    assert said.parser is not None
    assert said.parser.stopped


@pytest.mark.parametrize("text", ["Write `<tool_call>` first.", "Write <tool_call> {city} </tool_call> first."])
def test_text_in_a_call_that_is_no_call_stays_as_it_was_written(text: str) -> None:
    said = read(text, tools=TOOLS)
    assert (said.text.split(), said.calls) == (re.sub("</?tool_call>", "", text).split(), [])


def test_without_tools_what_stands_in_a_call_is_text() -> None:
    said = read("a " + call("weather", city="b") + " c")
    assert (said.text, said.calls) == ("a weather\ncity\nb\n c", [])


def test_without_parallel_calls_the_answer_ends_after_the_first() -> None:
    said = read(call("weather") + call("weather"), tools=ToolUse((WEATHER,), parallel=False))
    assert said.calls == [["weather", "{}"]]
    assert said.parser is not None
    assert said.parser.stopped


def test_a_string_argument_is_sent_while_it_is_sampled() -> None:
    parser = OutputParser(MARKED, prompt(tools=TOOLS))
    emitted: list[str] = []
    for token_id in ids_of('<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>a"灯'):
        parser.push(token_id)
        emitted += [piece.arguments for piece in parser.take_deltas() if isinstance(piece, ToolCallDelta)]
    assert emitted == ["", '{"city":"', "a", '\\"', "灯"]


def test_a_call_that_is_cut_off_stays_open_and_one_that_the_model_left_is_closed() -> None:
    begun = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Par"
    assert read(begun, tools=TOOLS, cut=True).calls == [["weather", '{"city":"Par']]
    assert read(begun, tools=TOOLS).calls == [["weather", '{"city":"Par"}']]


def test_text_after_calls_is_text() -> None:
    assert read(call("weather") + "\n\nDone. ", tools=TOOLS).text == "Done. "


# -- logprobs


def logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, MARKED.token_bytes[token_id], -1.0)


def emitted_with_logprobs(answer: str, **fields: Any) -> list[tuple[str, str, bytes]]:
    parser = OutputParser(MARKED, prompt(**fields))
    pieces: list[AnyDelta] = []
    for token_id in ids_of(answer, random.Random(3)):
        parser.push(token_id, logprob(token_id))
        pieces += parser.take_deltas()
        if parser.stopped:
            break
    if not parser.stopped:
        parser.finish()
    pieces += parser.take_deltas()
    return [
        (piece.channel, piece.text, b"".join(one.token for one in piece.logprobs))
        for piece in pieces
        if isinstance(piece, Delta)
    ]


def test_every_token_of_a_raw_answer_has_a_logprob_control_tokens_too() -> None:
    answer = "a<think>b</think>"
    emitted = emitted_with_logprobs(answer, raw=True)
    parser = OutputParser(MARKED, prompt(raw=True))
    for token_id in ids_of(answer):
        parser.push(token_id, logprob(token_id))
    parser.finish()
    (delta,) = parser.take_deltas()
    assert isinstance(delta, Delta)
    assert [one.token_id for one in delta.logprobs] == ids_of(answer)
    assert emitted[-1][1] == "b"


def test_held_reasoning_has_its_logprobs() -> None:
    emitted = emitted_with_logprobs(" why</think>because", thinking=THINKING)
    assert "".join(text for channel, text, _ in emitted if channel == "reasoning") == "why"
    assert b"".join(tokens for channel, _, tokens in emitted if channel == "reasoning") == b" why"


def test_logprobs_come_with_the_text_that_they_are_of() -> None:
    emitted = emitted_with_logprobs("<think>why 灯</think>红灯 is on", thinking=THINKING)
    for channel, text in (("reasoning", "why 灯"), ("text", "红灯 is on")):
        assert "".join(piece for name, piece, _ in emitted if name == channel) == text
        assert b"".join(tokens for name, _, tokens in emitted if name == channel) == text.encode()


def test_the_tokens_of_a_stop_string_are_not_sent() -> None:
    emitted = emitted_with_logprobs("one two three", sampling=Sampling(max_tokens=9, stop=(" two",)))
    assert b"".join(tokens for _, _, tokens in emitted) == b"one"


# -- anything

# Hypothesis also draws string constants of the modules that it finds, so control tokens are filtered out.
plain = st.text(
    alphabet=st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), st.sampled_from("红灯 \n<>/[]\"'\\")
    )
).filter(lambda text: not any(name in text for name in NAMES))


@st.composite
def values(draw: st.DrawFn) -> tuple[str, str, Any]:
    """An argument's key, how GLM writes its value, and what it means."""
    key = draw(st.sampled_from(["city", "days", "unit", "note", "extra", "unheard of"]))
    if key == "city":
        value: Any = draw(plain)
    elif key == "days":
        value = draw(st.integers())
    elif key == "unit":
        value = draw(st.sampled_from(["C", "F"]))
    elif key == "note":
        value = draw(st.one_of(st.none(), plain.filter(lambda text: text.strip() not in ("null", "None"))))
    else:
        value = draw(
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
                lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(plain, inner, max_size=3)),
                max_leaves=5,
            )
        )
    return key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=draw(st.booleans())), value


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_the_answer_each_channel_gets_what_was_written(data: st.DataObject) -> None:
    answer, text, reasoning, boxes, calls = "", "", "", [], []
    if data.draw(st.booleans()):
        reasoning = data.draw(plain).strip()
        answer = data.draw(st.sampled_from(["", "\n", " "])) + f"<think>\n{reasoning}\n</think>\n"
    for _ in range(data.draw(st.integers(0, 3))):
        piece = data.draw(plain)
        if not text:  # white space before the text is dropped
            piece = piece.lstrip() if answer else "x" + piece
        if data.draw(st.booleans()) and piece.strip():
            piece = piece.rstrip()  # space at the end of a box is emitted with it, also before a call
            boxes.append(piece.strip())
            answer += f"<|begin_of_box|>{piece}<|end_of_box|>"
        else:
            answer += piece
        text += piece
    for _ in range(data.draw(st.integers(0, 3))):
        text = text.rstrip()
        arguments = {key: (written, value) for key, written, value in data.draw(st.lists(values(), max_size=4))}
        calls.append({key: value for key, (_, value) in arguments.items()})
        answer += "\n" + call("weather", **{key: written for key, (written, _) in arguments.items()})
    said = read(answer, rng=random.Random(data.draw(st.integers(0, 2**32))), tools=TOOLS, thinking=THINKING)
    assert said.reasoning == reasoning
    assert said.text == text
    assert said.arguments == calls
    assert said.boxed == boxes


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 319), max_size=120), st.booleans(), st.booleans(), st.booleans())
def test_of_any_tokens_whatever_nothing_leaks_and_pieces_add_up(
    token_ids: list[int], thinking: bool, tools: bool, cut: bool
) -> None:
    fields: dict[str, Any] = {"thinking": Thinking(enabled=thinking), "tools": TOOLS if tools else None}
    said = read(token_ids, cut=cut, **fields)
    everything = said.text + said.reasoning + "".join(arguments for _, arguments in said.calls)
    assert "\ufffd" not in everything
    content = b"".join(MARKED.token_bytes[token_id] for token_id in token_ids).decode("utf-8", "ignore")
    assert not [mark for mark in NAMES if mark in everything and mark not in content]
    if not cut:
        assert all(isinstance(arguments, dict) for arguments in said.arguments)


# -- calls without `<tool_call>`, and what only looks like one


@pytest.mark.parametrize("fence", ["", "```json\n"])
def test_text_after_an_example_of_a_call_is_streamed(fence: str) -> None:
    example = fence + '{"name": "weather", "arguments": {}}\n' + "```\n" * bool(fence)
    said = read(example + "This is how a call looks. " * 20, tools=TOOLS)
    assert said.text == example + "This is how a call looks. " * 20
    assert said.calls == []
    assert len(said.pieces) > 100


def test_a_call_that_is_too_long_to_be_held_is_text() -> None:
    written = '{"name": "weather", "arguments": {"city": "' + "x" * 10_000
    said = read(written, tools=TOOLS, cut=True)
    assert (said.text, said.calls) == (written, [])
    assert len(said.pieces) > 5000


def test_held_text_that_is_no_call_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `</tool_call>` read it again, which takes 10 ms of the engine's thread."""
    lengths: list[int] = []

    def recorded(text: str, tools: Collection[str]) -> list[tuple[str, str]]:
        lengths.append(len(text))
        return parse_calls(text, tools)

    monkeypatch.setattr(unmarked_calls, "parse_calls", recorded)
    written = '{"name": "weather", "arguments": [' + "1, " * 1000 + "x "
    assert read(written + "</tool_call>" * 50, tools=TOOLS).text.startswith(written.rstrip())
    assert sum(length > 1000 for length in lengths) == 1


def test_the_end_of_reasoning_within_an_argument_cuts_nothing_off() -> None:
    said = read(
        "<think>I will write it.<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>the </think> end</arg_value>\n"
        "</tool_call>",
        tools=TOOLS,
    )
    assert said.arguments == [{"city": "the  end"}]
    assert said.text == ""


def test_nothing_follows_a_stop_string() -> None:
    vocabulary = Vocabulary([*MARKED.token_bytes, b"ation:\nweather"], MARKED.names)
    tokens = [*ids_of("done\nObserv"), len(MARKED.token_bytes)]
    stopped = read(tokens, vocabulary, tools=TOOLS, sampling=Sampling(max_tokens=99, stop=("Observation:",)))
    assert stopped.text == "done\n"


def test_reasoning_in_text_is_text_where_thinking_is_disabled() -> None:
    written = "GLM writes <think> its thoughts </think> and then the answer."
    said = read(written, thinking=Thinking(enabled=False))
    assert (said.text, said.reasoning) == ("GLM writes  its thoughts  and then the answer.", "")
