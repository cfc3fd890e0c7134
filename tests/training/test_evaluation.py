"""The fixed evaluation set, and the benchmark that scores an endpoint on it."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks import abilities, jobs
from training import batches


def test_there_are_a_hundred_pictures_of_each_job() -> None:
    pictures = {(question.job, question.picture) for question in jobs.questions()}
    assert Counter(job for job, _ in pictures) == {"labels": 100, "boards": 100, "documents": 100}


def test_every_picture_opens_and_none_is_unused() -> None:
    named = {question.picture for question in jobs.questions()}
    assert {file.name for file in jobs.EVALUATION.glob("*.jpg")} == named
    for name in named:
        with Image.open(jobs.EVALUATION / name) as picture:
            picture.load()


def test_both_languages_ask_about_each_job() -> None:
    asked = Counter((question.job, question.language) for question in jobs.questions())
    assert min(asked.values()) >= 60
    assert len(asked) == 6


def test_a_limit_is_per_job_and_takes_different_pictures() -> None:
    few = jobs.questions(5)
    assert Counter(question.job for question in few) == {"labels": 5, "boards": 5, "documents": 5}
    assert len({question.picture for question in few}) == 15


def test_evaluation_seeds_are_never_drawn_in_training() -> None:
    ranges = sorted([batches.TRAINING_SEEDS, batches.VALIDATION_SEEDS, batches.EVALUATION_SEEDS])
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


@pytest.mark.parametrize(
    ("said", "meant"),
    [("第2行第3列，桥接", "第2行第3列,桥接"), (" 12.50\n", "12.50"), ("JOHN  KING", "JOHN KING"), ("pass.", "pass")],
)
def test_width_and_space_do_not_make_an_answer_wrong(said: str, meant: str) -> None:
    assert jobs.normal(said) == jobs.normal(meant)


def test_another_digit_makes_an_answer_wrong() -> None:
    assert jobs.normal("12.50") != jobs.normal("12.60")


def endpoint(answers: dict[str, str]) -> httpx.MockTransport:
    """An OpenAI-compatible server that knows what to say to each question."""

    def respond(request: httpx.Request) -> httpx.Response:
        content: list[dict[str, Any]] = json.loads(request.content)["messages"][0]["content"]
        assert [part["type"] for part in content] == ["image_url", "text"]
        return httpx.Response(200, json={"choices": [{"message": {"content": answers[content[1]["text"]]}}]})

    return httpx.MockTransport(respond)


async def test_the_score_is_the_share_of_right_answers() -> None:
    asked = [jobs.Question("labels-000.jpg", "labels", "phone", "en", str(n), "yes") for n in range(4)]
    answers = {"0": "yes", "1": " yes", "2": "no", "3": "yes"}
    async with httpx.AsyncClient(transport=endpoint(answers), base_url="http://test") as client:
        outcomes = await jobs.ask_all(client, asked, "m", concurrency=2)
    assert jobs.summary(outcomes, 1.0)["jobs"]["labels"]["score"] == 0.75


async def test_an_endpoint_that_is_not_there_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://nowhere") as client:
        with pytest.raises(jobs.Unreachable, match="nowhere"):
            await jobs.served_model(client)


def test_each_ability_is_asked_fifty_times_in_both_languages_about_all_jobs() -> None:
    asked = abilities.questions()
    assert Counter(question["ability"] for question in asked) == dict.fromkeys(abilities.ABILITIES, 50)
    kinds = Counter((question["ability"], question["language"], question["job"]) for question in asked)
    assert len(kinds) == 24
    assert min(kinds.values()) >= 3


def test_abilities_are_asked_of_the_pictures_of_the_set_each_once() -> None:
    pictures = [question["picture"] for question in abilities.questions()]
    assert len(set(pictures)) == len(pictures)
    assert all((jobs.EVALUATION / picture).is_file() for picture in pictures)


def test_some_questions_with_tools_take_two_calls_and_some_none() -> None:
    calls = Counter(len(question.get("calls", [])) for question in abilities.questions("tools"))
    assert set(calls) == {0, 1, 2}


CALL = {"name": "book", "arguments": {"number": "AB1", "total": 12.5}}
CALLED = {"function": {"name": "book", "arguments": '{"total": 12.50, "number": "AB1"}'}}
BOXED = {"boxes": [{"text": "", "boxes": [{"box_1000": [100, 100, 205, 195], "box_pixels": None, "image": 0}]}]}


@pytest.mark.parametrize(
    ("asked", "message", "right"),
    [
        ({"ability": "thinking", "answer": "12"}, {"content": "12", "reasoning_content": "I look."}, True),
        ({"ability": "thinking", "answer": "12"}, {"content": "12", "reasoning_content": ""}, False),
        ({"ability": "thinking", "answer": "12"}, {"content": "13", "reasoning_content": "I look."}, False),
        ({"ability": "tools", "calls": [CALL]}, {"content": None, "tool_calls": [CALLED]}, True),
        ({"ability": "tools", "calls": [CALL, CALL]}, {"content": None, "tool_calls": [CALLED]}, False),
        ({"ability": "tools", "calls": [CALL]}, {"content": "booked"}, False),
        ({"ability": "tools", "answer": "12"}, {"content": "12"}, True),
        ({"ability": "tools", "answer": "12"}, {"content": "12", "tool_calls": [CALLED]}, False),
        ({"ability": "results", "facts": ["T12", "9"]}, {"content": "It is T12, at 9."}, True),
        ({"ability": "results", "facts": ["T12", "9"]}, {"content": "It is T12."}, False),
        ({"ability": "pointing", "box": [100, 100, 200, 200]}, {"content": "", **BOXED}, True),
        ({"ability": "pointing", "box": [500, 100, 600, 200]}, {"content": "", **BOXED}, False),
        ({"ability": "pointing", "box": [100, 100, 200, 200]}, {"content": "[[100,100,200,190]]"}, True),
        ({"ability": "pointing", "box": [100, 100, 200, 200]}, {"content": "at the top"}, False),
    ],
)
def test_an_answer_is_right_if_it_has_what_was_asked_for(
    asked: dict[str, Any], message: dict[str, Any], right: bool
) -> None:
    assert abilities.is_right(asked, message) == right


async def test_results_are_asked_for_after_their_calls_and_scores_are_by_ability() -> None:
    roles = []

    def respond(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        roles.append([message["role"] for message in body["messages"]])
        return httpx.Response(200, json={"choices": [{"message": {"content": body["messages"][-1]["content"]}}]})

    asked = abilities.questions("results")[:3]
    async with httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://test") as client:
        outcomes = await abilities.ask_all(client, asked, "m", concurrency=2)
    assert all(said[:3] == ["user", "assistant", "tool"] for said in roles)
    results = abilities.summary(outcomes)["results"]
    assert results["n"] == 3
    assert results["score"] >= 0.3  # a server that repeats the last result has its fact, if there was only one
