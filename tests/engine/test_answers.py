"""Whole answers through the loop: what is sent, in which order, how they end, what is refused."""

import json
import random
from typing import Any

import numpy as np
import pytest

from serve_app.contracts import (
    Box,
    Boxed,
    Delta,
    PictureSeen,
    Started,
    Thinking,
    Tool,
    ToolCallDelta,
    ToolUse,
    Usage,
)
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.errors import InvalidRequest
from tests.engine.conftest import BYTES, MARKED, NAMES, Bench, CountingModel, ScriptedModel, ids_of, picture

WEATHER = Tool(
    "weather",
    {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}},
)
CALL = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n</tool_call>"
THINKING = {"thinking": Thinking(enabled=True)}


def scripted(slots: int = 4, vocabulary: Vocabulary = MARKED, **scripts: str | list[int]) -> Bench:
    model = ScriptedModel()
    model.scripts = {name: ids_of(text) if isinstance(text, str) else text for name, text in scripts.items()}
    return Bench(model, slots, max_waiting=1000, vocabulary=vocabulary)


def test_reasoning_text_and_calls_come_in_order_and_are_counted() -> None:
    answer = "<think>why</think>\nbecause" + CALL
    b = scripted(a=answer)
    b.ask("a", max_tokens=200, prompt={**THINKING, "tools": ToolUse((WEATHER,))})
    b.run(seconds_a_step=1.0)
    kinds = [
        e.channel if isinstance(e, Delta) else "call" for e in b.events["a"] if isinstance(e, (Delta, ToolCallDelta))
    ]
    assert kinds == sorted(kinds, key=["reasoning", "text", "call"].index)
    assert (b.reasoning("a"), b.text("a"), b.calls("a")) == ("why", "because", [("weather", '{"city":"北京"}')])
    assert b.finished("a").reason == "tool_calls"
    assert b.finished("a").usage == Usage(1, len(ids_of(answer)) + 1, 0, len(ids_of("<think>why</think>")))


def test_a_whole_answer_has_one_piece_a_channel_behind_its_first() -> None:
    b = scripted(a="<think>why so</think>\nbecause of it" + CALL)
    b.ask("a", max_tokens=200, prompt={**THINKING, "tools": ToolUse((WEATHER,)), "stream": False})
    b.run(seconds_a_step=1.0)
    first, *rest = [event for event in b.events["a"] if isinstance(event, (Delta, ToolCallDelta))]
    assert isinstance(first, Delta)
    assert [type(event) for event in rest] == [Delta, Delta, ToolCallDelta]
    assert first.text + rest[0].text == "why so"  # type: ignore[union-attr]


def test_the_tokens_of_all_pieces_are_no_more_than_were_sampled() -> None:
    b = scripted(a="<think>why</think>\nbecause <|begin_of_box|>[1,2,3,4]<|end_of_box|>. 红灯" + CALL)
    b.ask("a", max_tokens=200, prompt={**THINKING, "tools": ToolUse((WEATHER,))})
    b.run(seconds_a_step=1.0)
    emitted = sum(event.tokens for event in b.events["a"] if isinstance(event, (Delta, ToolCallDelta)))
    assert 0 < emitted <= b.finished("a").usage.completion_tokens


def test_a_picture_is_reported_as_uploaded_and_as_seen() -> None:
    b = scripted(a="ok")
    one = picture(np.random.default_rng(0), 28, 56)
    b.ask("a", pictures=(one,))
    b.run()
    started = b.events["a"][0]
    assert isinstance(started, Started)
    assert started.pictures == (PictureSeen((56, 28), (56, 28), 2, digest=one.digest),)


def test_boxes_are_sent_at_the_end() -> None:
    b = scripted(a="Here: <|begin_of_box|>[[0,500,1000,1000]]<|end_of_box|>")
    b.ask("a", max_tokens=100, pictures=(picture(np.random.default_rng(0), 28, 56),))
    b.run()
    assert b.text("a") == "Here: [[0,500,1000,1000]]"
    expected = Boxed("[[0,500,1000,1000]]", (Box((0, 500, 1000, 1000), (0, 14, 56, 28), 0),))
    assert b.finished("a").boxed == (expected,)


def test_reasoning_that_is_cut_off_is_reasoning() -> None:
    b = scripted(a="<think>why and how")
    b.ask("a", max_tokens=6, prompt=THINKING)
    b.run()
    assert (b.text("a"), b.finished("a").reason) == ("", "length")
    assert b.reasoning("a") == "why a"
    assert b.finished("a").usage.reasoning_tokens == 6


def test_a_call_that_is_cut_off_is_sent_as_far_as_it_came() -> None:
    b = scripted(a=CALL)
    b.ask("a", max_tokens=len(ids_of(CALL.partition("京")[0])), prompt={"tools": ToolUse((WEATHER,))})
    b.run()
    assert b.calls("a") == [("weather", '{"city":"北')]
    assert b.finished("a").reason == "length"


def test_without_parallel_calls_nothing_is_sampled_after_the_first() -> None:
    b = scripted(a=CALL + CALL)
    b.ask("a", max_tokens=200, prompt={"tools": ToolUse((WEATHER,), parallel=False)})
    b.run()
    assert len(b.calls("a")) == 1
    assert (b.finished("a").reason, b.finished("a").usage.completion_tokens) == ("tool_calls", len(ids_of(CALL)))


@pytest.mark.parametrize(
    ("sampling", "text", "reason", "tokens"),
    [
        ({"stop_token_ids": (ord("D"),)}, "BC", "stop", 3),
        ({"stop_token_ids": (ord("Z"), ord("C"))}, "B", "stop", 2),
        ({"stop_token_ids": (ord("D"),), "ignore_eos": True}, "BC", "stop", 3),
        ({"stop_token_ids": (ord("D"),), "min_tokens": 5}, "BCDEFGHI", "length", 8),
        ({"stop_token_ids": (ord("D"), ord("G")), "min_tokens": 4}, "BCDEF", "stop", 6),
    ],
)
def test_a_stop_token_ends_the_answer_before_it(sampling: dict[str, Any], text: str, reason: str, tokens: int) -> None:
    b = Bench(CountingModel())
    b.ask("a", b"A", max_tokens=8, **sampling)
    b.run()
    finished = b.finished("a")
    assert (b.text("a"), finished.reason, finished.usage.completion_tokens) == (text, reason, tokens)


def test_a_stop_string_in_reasoning_does_not_end_the_answer() -> None:
    b = scripted(a="<think>a.b</think>c.d")
    b.ask("a", max_tokens=100, stop=(".",), prompt=THINKING)
    b.run()
    assert (b.reasoning("a"), b.text("a"), b.finished("a").reason) == ("a.b", "c", "stop")


def test_an_ignored_end_token_shows_nothing_and_the_answer_goes_on() -> None:
    b = scripted(a=[*ids_of("a"), NAMES["<|user|>"], *ids_of("b")])
    b.ask("a", max_tokens=5, ignore_eos=True)
    b.run()
    assert (b.text("a"), b.finished("a").reason, b.finished("a").usage.completion_tokens) == ("ab", "length", 5)


def test_an_answer_has_at_least_min_tokens() -> None:
    b = Bench(CountingModel())
    b.ask("a", bytes([253]), max_tokens=20, min_tokens=6)
    b.run()
    assert b.finished("a").usage.completion_tokens >= 6


def test_logprobs_cover_the_text() -> None:
    b = scripted(a="红灯 is on")
    b.ask("a", max_tokens=100, logprobs=2)
    b.run(seconds_a_step=1.0)
    emitted = [one for event in b.events["a"] if isinstance(event, Delta) for one in event.logprobs]
    assert b"".join(one.token for one in emitted).decode() == "红灯 is on"
    assert all(len(one.top) == 2 and one.top[0][0] == one.token_id for one in emitted)


# -- thinking budget


@pytest.mark.parametrize("budget", [0, 1, 4])
def test_reasoning_ends_when_its_budget_is_used_up(budget: int) -> None:
    b = scripted(a="<think>why and how, and why and how" + "because")
    b.ask("a", max_tokens=25, prompt={"thinking": Thinking(True, budget)})
    b.run()
    assert b.reasoning("a") == "why and"[:budget].rstrip()
    # The script goes on as if nothing had happened; two of its tokens were replaced by </think> and <answer>.
    sampled = ids_of("<think>why and how, and why and how" + "because")[:25]
    rest = sampled[1 + budget + 2 :]
    assert b.text("a") == b"".join(MARKED.token_bytes[token_id] for token_id in rest).decode().lstrip("\n")
    assert b.finished("a").usage.reasoning_tokens == budget + 2


def test_after_forced_reasoning_a_family_without_answer_control_tokens_gets_its_newline() -> None:
    names = {name: index for name, index in NAMES.items() if "answer" not in name}
    b = scripted(a="<think>abcdef", vocabulary=Vocabulary(MARKED.token_bytes, names))
    b.ask("a", max_tokens=6, prompt={"thinking": Thinking(True, 2)})
    sequence = b.loop._inbox[0]
    b.run()
    assert not isinstance(sequence, str)
    assert sequence.generated[:5] == [NAMES["<think>"], *b"ab", NAMES["</think>"], ord("\n")]


def test_a_budget_of_nothing_ends_reasoning_that_the_prompt_began() -> None:
    b = scripted(a="xxcd")
    ids = np.array(ids_of("Q<|assistant|><think>"), dtype=np.int32)
    b.ask("a", max_tokens=10, prompt={"thinking": Thinking(True, 0), "token_ids": ids})
    b.run()
    assert (b.reasoning("a"), b.text("a")) == ("", "cd")


def test_reasoning_within_its_budget_is_left_alone() -> None:
    b = scripted(a="<think>why</think>\nbecause")
    b.ask("a", max_tokens=100, prompt={"thinking": Thinking(True, 3)})
    b.run()
    assert (b.reasoning("a"), b.text("a")) == ("why", "because")


def test_forced_tokens_of_one_row_leave_the_others_alone() -> None:
    b = scripted(a="<think>abcdef", b="<think>abcdef</think>g", c="plain text")
    b.ask("a", max_tokens=12, prompt={"thinking": Thinking(True, 1)})
    b.ask("b", max_tokens=12, prompt=THINKING)
    b.ask("c", max_tokens=12, temperature=0.001, seed=1)
    b.run()
    assert (b.reasoning("a"), b.reasoning("b"), b.text("b"), b.text("c")) == ("a", "abcdef", "g", "plain text")


# -- refused


@pytest.mark.parametrize(
    ("sampling", "prompt", "param"),
    [
        ({"logit_bias": ((320, 1.0),)}, {}, "logit_bias"),
        ({"logit_bias": ((-1, 1.0),)}, {}, "logit_bias"),
        ({}, {"tools": ToolUse((WEATHER,))}, "tools"),
        ({}, {"thinking": Thinking(True, 5)}, "thinking"),
    ],
)
def test_what_the_model_can_not_do_is_refused_by_name_and_others_go_on(
    sampling: dict[str, Any], prompt: dict[str, Any], param: str
) -> None:
    b = Bench(CountingModel(), vocabulary=BYTES)  # has no control tokens
    b.ask("good", max_tokens=2)
    with pytest.raises(InvalidRequest) as raised:
        b.ask("bad", prompt=prompt, **sampling)
    assert raised.value.param == param
    b.run()
    assert b.text("good") == "BC"
    assert b.loop.slots_used() == 0


def test_a_tool_whose_schema_nests_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"anyOf": [schema]}
    deep = Tool("deep", {"type": "function", "function": {"name": "deep", "parameters": {"properties": {"a": schema}}}})
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        scripted().ask("bad", prompt={"tools": ToolUse((deep,))})


# -- anything


def test_whatever_tokens_are_sampled_the_stream_adds_up_to_the_whole_answer() -> None:
    """500 answers of random bytes, characters, control tokens, each asked for as a stream and as a whole."""
    rng = random.Random(5)
    usual = [index for index, token in enumerate(MARKED.token_bytes) if token] + [
        index for name, index in NAMES.items() if name not in ("<|endoftext|>", "<|user|>", "<|observation|>")
    ]
    scripts = {f"{index}": rng.choices(usual, k=rng.randint(0, 60)) for index in range(500)}
    b = scripted(slots=16, **scripts, **{f"{name} whole": script for name, script in scripts.items()})
    for name in scripts:
        fields = {
            "tools": rng.choice([None, ToolUse((WEATHER,))]),
            "thinking": rng.choice([Thinking(False), Thinking(True), Thinking(True, 3)]),
            "raw": rng.random() < 0.1,
        }
        if fields["raw"]:
            fields |= {"tools": None, "thinking": Thinking(False)}
        for kind in ("", " whole"):
            b.ask(name + kind, max_tokens=50, stop=("th",), prompt={**fields, "stream": kind == "", "deadline_s": 1e9})
    b.run(seconds_a_step=0.06)
    for name in scripts:
        stream, whole = ([b.text(n), b.reasoning(n), b.calls(n), b.finished(n).boxed] for n in (name, name + " whole"))
        assert stream == whole
        assert "\ufffd" not in str(stream)
        assert "th" not in b.text(name)
        assert b.finished(name).usage == b.finished(name + " whole").usage
        if b.finished(name).reason == "tool_calls":
            assert all(isinstance(json.loads(arguments), dict) for _, arguments in b.calls(name))


def test_usage_is_what_was_sampled() -> None:
    b = scripted(a="红灯", b="")
    b.ask("a", b"AB")
    b.ask("b", b"AB")
    b.run()
    assert b.finished("a").usage == Usage(2, len(ids_of("红灯")) + 1)
    assert b.finished("b").usage == Usage(2, 1)
