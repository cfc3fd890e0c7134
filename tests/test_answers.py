"""Answers without HTTP: choices merged, text collected, usage counted, observers called."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from serve_app.answers import Answers, CollectedCall, merge
from serve_app.contracts import ChatRequest, Delta, Event, Finished, PictureSeen, Started, ToolCallDelta, Usage
from serve_app.errors import EngineFailed, Overloaded
from tests.fakes import ALL_MS, PREPARED_MS, FakeAnswer, FakeAnswers

REQUEST = ChatRequest("one", ())


class Recorder:
    """An observer that keeps the events, with the tokens counted when it got them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.tokens: list[int] = []

    def observe(self, answers: Answers, event: Event) -> None:
        self.events.append(event)
        self.tokens.append(answers.usage.completion_tokens)


async def test_one_answer_is_collected_with_its_usage_stages_and_pictures():
    pictures = (PictureSeen((56, 28), (56, 28), 2),)
    call = (ToolCallDelta(0, "weather", "", 3), ToolCallDelta(0, None, "{}", 1))
    answer = FakeAnswer(Delta("Hm.", 2, "reasoning"), "Two ", "cats", *call, pictures=pictures)
    answers = Answers(answer, (REQUEST,))
    (choice,) = await answers.collect()
    assert (choice.text, choice.reasoning, choice.end.reason) == ("Two cats", "Hm.", "stop")
    assert choice.calls == [CollectedCall("weather", ["", "{}"])]
    assert answers.usage == Usage(40, 8, 30, 2)
    assert (answers.stages_ms, answers.pictures) == (ALL_MS, pictures)


async def test_usage_and_stages_are_known_while_the_answer_is_generated():
    answers = Answers(FakeAnswer(Delta("Hm.", 2, "reasoning"), "Two"), (REQUEST,))
    assert answers.usage == Usage(0, 0)
    async with aclosing(answers.events()) as events:
        await anext(events)
        await anext(events)
        assert answers.usage == Usage(40, 2, 30, 2)
        assert answers.stages_ms == PREPARED_MS


async def test_observers_see_every_event_and_one_end_of_all_choices():
    observer = Recorder()
    answers = Answers(FakeAnswers(FakeAnswer("a"), FakeAnswer("b", "c")), (REQUEST, REQUEST), observers=(observer,))
    assert [choice.text for choice in await answers.collect()] == ["a", "bc"]
    kinds = [type(event) for event in observer.events]
    assert (kinds.count(Started), kinds.count(Delta), kinds.count(Finished)) == (2, 3, 1)
    assert observer.tokens[-1] == 3
    assert answers.usage == Usage(40, 3, 30)


async def test_the_total_time_counts_from_when_the_request_was_received():
    times = iter([7.5])
    assert Answers(FakeAnswer(), (REQUEST,), clock=lambda: next(times), received_at=5.0).total_ms == 2500.0


async def test_one_refused_choice_stops_the_others():
    waiting = FakeAnswer("x", hold_after=1)
    answers = Answers(FakeAnswers(waiting, FakeAnswer(error=Overloaded("Full."))), (REQUEST, REQUEST))
    with pytest.raises(Overloaded):
        await answers.collect()
    assert (waiting.running, waiting.closed_early) == (0, 1)


async def test_closing_the_events_early_stops_all_choices():
    first, second = FakeAnswer("x", hold_after=2), FakeAnswer("y", hold_after=2)
    async with aclosing(Answers(FakeAnswers(first, second), (REQUEST, REQUEST)).events()) as events:
        await anext(events)
        await first.held.wait()
    assert (first.running, second.running) == (0, 0)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("choices", [1, 2])
async def test_an_answer_without_a_last_event_is_an_error(choices: int):
    answer = FakeAnswers(*(FakeAnswer("Two", break_off=True) for _ in range(choices)))
    with pytest.raises(EngineFailed, match="stopped before its end"):
        await Answers(answer, (REQUEST,) * choices).collect()


def test_merged_choices_add_up_their_tokens_and_take_the_longest_of_each_stage():
    ends = [
        Finished("stop", Usage(10, 3, 4, 2), {"prefill": 1.0, "decode_steps": 9.0}),
        Finished("length", Usage(10, 5, 4, 1), {"prefill": 2.0, "decode_steps": 7.0, "encode": 3.0}),
    ]
    assert merge(ends, ["a", "a"]) == Finished(
        "stop", Usage(10, 8, 4, 3), {"prefill": 2.0, "decode_steps": 9.0, "encode": 3.0}
    )
    different = merge(ends, ["a", "b"]).usage
    assert (different.prompt_tokens, different.image_tokens) == (20, 8)
    assert list(merge(ends, ["a", "a"]).stages_ms) == ["prefill", "decode_steps", "encode"]
