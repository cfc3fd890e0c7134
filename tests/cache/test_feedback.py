"""Feedback: an answer that was called wrong is removed, not kept again, and its question can be kept for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from serve_app.cache.feedback import Feedback
from serve_app.caller import Caller
from serve_app.contracts import ChatRequest
from serve_app.settings_cache import CacheSettings
from tests.cache.conftest import Cached

Question = Callable[..., ChatRequest]


def wrong(answer_id: str, tenant: str = "default", comment: str = "") -> Feedback:
    return Feedback(answer_id, "down", comment, tenant)


async def test_an_answer_that_is_called_wrong_is_removed_and_not_kept_again(question: Question):
    cached = Cached()
    await cached.ask(question(id="one"))
    assert (await cached.ask(question(id="two")))[0].cache == "hit"
    assert await cached.cache.rate(wrong("one")) == 1
    for number in range(3):
        assert (await cached.ask(question(id=f"after {number}")))[0].cache == "miss"
    assert cached.generated == 4
    assert cached.lookups()["blocked"] >= 3


async def test_a_hit_can_be_called_wrong_by_its_own_id(question: Question):
    cached = Cached()
    await cached.ask(question(id="one"))
    await cached.ask(question(id="two"))
    assert await cached.cache.rate(wrong("two")) == 1
    assert (await cached.ask(question(id="three")))[0].cache == "miss"


async def test_other_questions_stay(question: Question):
    cached = Cached()
    await cached.ask(question("A", id="one"))
    await cached.ask(question("B", id="two"))
    await cached.cache.rate(wrong("one"))
    assert (await cached.ask(question("B", id="three")))[0].cache == "hit"


async def test_a_right_answer_an_unknown_id_and_another_tenants_answer_remove_nothing(question: Question):
    cached = Cached()
    await cached.ask(question(id="one", caller=Caller(tenant="a")))
    assert await cached.cache.rate(Feedback("one", "up", "", "a")) == 0
    assert await cached.cache.rate(wrong("other", "a")) == 0
    assert await cached.cache.rate(wrong("one", "b")) == 0
    assert (await cached.ask(question(id="two", caller=Caller(tenant="a"))))[0].cache == "hit"


async def test_all_choices_of_a_response_are_removed(question: Question):
    cached = Cached()
    await asyncio.gather(*(cached.ask(question("A", id=f"one-{index}", group="one")) for index in range(2)))
    assert await cached.cache.rate(wrong("one")) == 1  # both choices have the same answer


async def test_the_question_is_kept_as_a_candidate_for_tests(question: Question, tmp_path: Path):
    file = tmp_path / "candidates.jsonl"
    cached = Cached(settings=CacheSettings(candidates_file=str(file)))
    await cached.ask(question("Which number is this?", id="one"))
    await cached.cache.rate(wrong("one", comment="It is 7716."))
    (line,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert line["questions"] == [[{"role": "user", "parts": ["Which number is this?"]}]]
    assert (line["answers"], line["comment"], line["id"]) == (["Two cats"], "It is 7716.", "one")


async def test_feedback_that_is_repeated_does_not_fill_the_file(question: Question, tmp_path: Path):
    """Any caller could fill the disk with one question."""
    file = tmp_path / "candidates.jsonl"
    cached = Cached(settings=CacheSettings(candidates_file=str(file)))
    await cached.ask(question("A", id="one"))
    await cached.ask(question("A", id="two"))
    for answer in ("one", "two", "one", "one"):
        await cached.cache.rate(wrong(answer))
    assert len(file.read_text().splitlines()) == 1


async def test_without_that_file_no_question_is_kept(question: Question):
    cached = Cached()
    await cached.ask(question("Which number is this?", id="one"))
    (found,) = await cached.cache._index.find("one", "default")
    assert found.question is None


async def test_a_large_question_is_not_kept_and_its_answer_can_still_be_called_wrong(
    question: Question, tmp_path: Path
):
    cached = Cached(settings=CacheSettings(candidates_file=str(tmp_path / "candidates.jsonl")))
    await cached.ask(question("x" * 70_000, id="one"))
    (found,) = await cached.cache._index.find("one", "default")
    assert found.question is None
    assert await cached.cache.rate(wrong("one")) == 1
