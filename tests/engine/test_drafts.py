"""Drafts of constrained answers: fewer steps, the same answers, within every limit."""

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from serve_app.contracts import Constraint, Delta, Thinking, ToolUse
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.sequence import Sequence
from tests.engine.conftest import MARKED, Bench, RandomModel, ScriptedModel, ids_of
from tests.engine.structured.test_grammar import CHOICES, CLOCK, PATTERNS, SCHEMAS, WEATHER, bpe_vocabulary

KEYS = {
    "type": "object",
    "properties": {"temperature": {"type": "integer"}, "thermometer": {"type": "boolean"}},
    "required": ["temperature", "thermometer"],
    "additionalProperties": False,
}
ANSWER = '{"temperature": 7, "thermometer": true}'


def held(schema: Any) -> dict[str, Any]:
    return {"constraint": Constraint("json_schema", json.dumps(schema))}


def submitted(b: Bench) -> list[Sequence]:
    return [one for one in b.loop._inbox if isinstance(one, Sequence)]


def run(b: Bench, drafts: bool) -> Bench:
    for one in submitted(b):
        if not drafts:
            one.drafter = None
    b.run(seconds_a_step=0.02)
    b.loop.admission.grammars.close()
    return b


def scripted(text: str | list[int], ahead: bool = False, drafts: bool = True, **sampling: Any) -> Bench:
    """One answer of a model that writes a text, in the longest tokens unless they are given."""
    model = ScriptedModel(ahead)
    model.scripts = {"a": ids_of(text) if isinstance(text, str) else text}
    b = Bench(model, vocabulary=MARKED)
    b.ask("a", prompt=held(KEYS), **{"max_tokens": 90, **sampling})
    return run(b, drafts)


def passes(b: Bench) -> int:
    """Forward passes of rows and drafts; a forward of both counts once in `batches`."""
    drafts = [chunk for chunk in b.model.chunks if chunk[1] > 0]
    return len(b.model.batches) + len(drafts)


@pytest.mark.parametrize("ahead", [False, True])
def test_what_the_grammar_forces_enters_as_one_piece(ahead: bool) -> None:
    b, plain = scripted(ANSWER, ahead), scripted(ANSWER, ahead, drafts=False)
    assert b.text("a") == plain.text("a") == ANSWER
    assert b.finished("a").usage == plain.finished("a").usage
    assert passes(plain) >= len(ids_of(ANSWER)) - 1
    assert passes(b) <= (14 if ahead else 9)


def test_a_draft_goes_on_beyond_a_space_that_the_grammar_leaves_open() -> None:
    b = scripted(ANSWER)
    # `{"` leaves `temperature": `, then `,` leaves ` "thermometer": `.
    drafts = [stop - start for _, start, stop in b.model.chunks if start > 0]
    assert len([length for length in drafts if length > 8]) == 2


def test_a_model_that_writes_no_spaces_refuses_one_draft() -> None:
    compact = ANSWER.replace(" ", "")
    b, spaced = scripted(compact), scripted(ANSWER)
    assert b.text("a") == compact
    assert passes(b) <= passes(spaced) + 2


def test_a_run_that_the_model_cuts_in_another_way_is_drafted_once() -> None:
    b = scripted([*ANSWER.encode()])  # one byte each
    assert b.text("a") == ANSWER
    drafts = [stop - start for _, start, stop in b.model.chunks if start > 0]
    assert len(drafts) <= 4


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("most", range(1, 45, 3))
def test_a_draft_ends_at_max_tokens(ahead: bool, most: int) -> None:
    b = scripted(ANSWER, ahead, max_tokens=most)
    assert b.finished("a").usage.completion_tokens <= most
    assert all(stop <= 1 + most for _, _, stop in b.model.chunks)  # reserved: the prompt and `most`
    assert b.text("a") == scripted(ANSWER, ahead, drafts=False, max_tokens=most).text("a")


@pytest.mark.parametrize("ahead", [False, True])
def test_a_stop_string_in_a_draft_ends_the_answer_there(ahead: bool) -> None:
    b, plain = (scripted(ANSWER, ahead, drafts, stop=("perat",)) for drafts in (True, False))
    assert b.text("a") == plain.text("a") == '{"tem'
    assert b.finished("a") == plain.finished("a") or b.finished("a").usage == plain.finished("a").usage
    assert b.finished("a").stop == "perat"


def test_pieces_of_a_draft_count_in_the_budget_of_the_step() -> None:
    model = ScriptedModel(mixes_prefill_and_decode=True)
    model.scripts = {"a": ids_of(ANSWER), "long": [66]}
    b = Bench(model, prefill_tokens=24, vocabulary=MARKED)
    b.ask("a", prompt=held(KEYS), max_tokens=90)
    for _ in range(4):
        b.loop.step()
    b.ask("long", b"x" * 300, max_tokens=2)
    b.run()
    b.loop.admission.grammars.close()
    drafts = [stop - start for name, start, stop in model.chunks if name == "a" and start > 0]
    pieces = [stop - start for name, start, stop in model.chunks if name == "long"]
    assert max(drafts) > 8
    assert min(pieces[:-1]) <= 24 - 8
    assert max(pieces) <= 4 * 24


def vocabularies(folder: Path) -> list[tuple[Vocabulary, frozenset[int]]]:
    return [(MARKED, ScriptedModel.stop_ids), bpe_vocabulary(folder)]


REQUESTS: list[dict[str, Any]] = [
    *({"prompt": held(schema)} for schema in SCHEMAS.values()),
    *({"prompt": {"constraint": Constraint("regex", pattern)}} for pattern in PATTERNS),
    {"prompt": {"constraint": Constraint("choice", json.dumps(CHOICES))}},
    {"prompt": held(SCHEMAS["flat"]) | {"thinking": Thinking(True, budget_tokens=5)}},
    {"prompt": {"tools": ToolUse((WEATHER, CLOCK), required=True)}},
    {"prompt": held(KEYS), "repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.2},
    {"prompt": held(KEYS) | {"stream": False}, "logprobs": 3},
    {"prompt": held(KEYS), "top_p": 0.9, "top_k": 20, "logit_bias": ((40, 3.0),), "stop": ('er"',)},
    {"prompt": held(KEYS), "max_tokens": 12},
    {"prompt": {}, "max_tokens": 20, "frequency_penalty": 0.4},
]


class TidyModel(RandomModel):
    """Likes long tokens and space after a separator, so that drafts are often what it samples, but not always."""

    def __init__(self, vocabulary: Vocabulary, stop_ids: frozenset[int], ahead: bool) -> None:
        super().__init__(vocabulary, stop_ids, ahead)
        for index, token in enumerate(vocabulary.token_bytes):
            self._liked[index] += min(len(token), 4)


def answers(model: RandomModel, vocabulary: Vocabulary, drafts: bool, seed: int, slots: int) -> tuple[Any, int]:
    b = Bench(model, slots, max_waiting=1000, vocabulary=vocabulary)
    for number, fields in enumerate(REQUESTS):
        rules = {"max_tokens": 80, "temperature": float(number + seed & 1), "seed": seed, "logprobs": 0} | fields
        b.ask(f"{seed}-{number}", **rules)
    run(b, drafts)
    found = {}
    for name, events in b.events.items():
        (ended,) = b.terminals(name)
        kinds = ("text", "reasoning")
        texts = ["".join(e.text for e in events if isinstance(e, Delta) and e.channel == kind) for kind in kinds]
        logprobs = [one for e in events if isinstance(e, Delta) for one in e.logprobs]
        end = [getattr(ended, field, None) for field in ("reason", "usage", "stop", "boxed", "message")]
        found[name] = (texts, logprobs, b.calls(name), end)
    assert b.loop.slots_used() == 0
    return found, passes(b)


@pytest.mark.parametrize("ahead", [False, True])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), slots=st.sampled_from([1, 4, 20]))
def test_answers_are_the_same_with_drafts(
    ahead: bool, seed: int, slots: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Text, reasoning, calls, log probabilities, usage, reason: for every kind of constraint and sampling rule."""
    for vocabulary, stop_ids in vocabularies(tmp_path_factory.mktemp("bpe")):
        plain, without = answers(TidyModel(vocabulary, stop_ids, ahead), vocabulary, False, seed, slots)
        drafted, with_drafts = answers(TidyModel(vocabulary, stop_ids, ahead), vocabulary, True, seed, slots)
        assert drafted == plain
        if slots == 1:
            assert with_drafts < without


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whatever_is_cancelled_while_drafts_are_in_flight_no_slot_is_lost(data: st.DataObject) -> None:
    b = Bench(TidyModel(MARKED, ScriptedModel.stop_ids, data.draw(st.booleans())), slots=2, vocabulary=MARKED)
    for number in range(data.draw(st.integers(1, 6))):
        b.ask(f"{number}", prompt=held(KEYS), max_tokens=data.draw(st.integers(2, 60)), temperature=1.0, seed=number)
        for _ in range(data.draw(st.integers(0, 9))):
            b.loop.step()
        if data.draw(st.booleans()):
            b.loop.cancel(f"{data.draw(st.integers(0, number))}")
    b.run()
    b.loop.admission.grammars.close()
    assert b.loop.slots_used() == 0
    assert all(len(b.terminals(name)) <= 1 for name in b.events)


def test_a_step_that_fails_with_a_draft_ends_that_request_only() -> None:
    model = ScriptedModel()
    model.scripts = {"a": ids_of(ANSWER), "free": [66, 67]}
    b = Bench(model, vocabulary=MARKED)
    b.ask("a", prompt=held(KEYS), max_tokens=90)
    for _ in range(3):
        b.loop.step()
    model.broken = {"a"}
    b.ask("free", max_tokens=3)
    b.run()
    b.loop.admission.grammars.close()
    assert len(b.terminals("a")) == 1
    assert b.text("free") == "BC"
