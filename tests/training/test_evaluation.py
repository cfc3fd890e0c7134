"""The fixed evaluation set, and the benchmark that scores an endpoint on it."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks import abilities, jobs
from benchmarks.endpoint import EndpointError, served_model
from benchmarks.evaluation_set import EVALUATION, Question, load_questions, normalize
from training import batches


def test_there_are_a_hundred_pictures_of_each_job() -> None:
    pictures = {(question.job, question.picture) for question in load_questions()}
    assert Counter(job for job, _ in pictures) == {"labels": 100, "boards": 100, "documents": 100}


def test_every_picture_opens_and_none_is_unused() -> None:
    named = {question.picture for question in load_questions()}
    assert {file.name for file in EVALUATION.glob("*.jpg")} == named
    for name in named:
        with Image.open(EVALUATION / name) as picture:
            picture.load()


def test_each_job_has_questions_in_both_languages() -> None:
    asked = Counter((question.job, question.language) for question in load_questions())
    assert min(asked.values()) >= 60
    assert len(asked) == 6


def test_a_limit_is_per_job_and_takes_different_pictures() -> None:
    few = load_questions(5)
    assert Counter(question.job for question in few) == {"labels": 5, "boards": 5, "documents": 5}
    assert len({question.picture for question in few}) == 15


def test_training_and_evaluation_use_different_seeds() -> None:
    ranges = sorted([batches.TRAINING_SEEDS, batches.VALIDATION_SEEDS, batches.EVALUATION_SEEDS])
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("第2行第3列，桥接", "第2行第3列,桥接"), (" 12.50\n", "12.50"), ("JOHN  KING", "JOHN KING"), ("pass.", "pass")],
)
def test_spaces_and_the_width_of_punctuation_are_ignored(answer: str, expected: str) -> None:
    assert normalize(answer) == normalize(expected)


def test_another_digit_makes_an_answer_wrong() -> None:
    assert normalize("12.50") != normalize("12.60")


def endpoint(answers: dict[str, str]) -> httpx.MockTransport:
    """An OpenAI-compatible server with a fixed answer to each question."""

    def respond(request: httpx.Request) -> httpx.Response:
        content: list[dict[str, Any]] = json.loads(request.content)["messages"][0]["content"]
        assert [part["type"] for part in content] == ["image_url", "text"]
        return httpx.Response(200, json={"choices": [{"message": {"content": answers[content[1]["text"]]}}]})

    return httpx.MockTransport(respond)


async def test_the_score_is_the_share_of_correct_answers() -> None:
    asked = [Question("labels-000.jpg", "labels", "phone", "en", str(n), "yes") for n in range(4)]
    answers = {"0": "yes", "1": " yes", "2": "no", "3": "yes"}
    async with httpx.AsyncClient(transport=endpoint(answers), base_url="http://test") as client:
        results = await jobs.ask_all(client, asked, "m", concurrency=2)
    assert jobs.summary(results, 1.0)["jobs"]["labels"]["score"] == 0.75


async def test_the_error_names_an_endpoint_that_does_not_answer() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://nowhere") as client:
        with pytest.raises(EndpointError, match="nowhere"):
            await served_model(client)


def test_each_ability_is_asked_fifty_times_in_both_languages_about_all_jobs() -> None:
    asked = abilities.questions()
    assert Counter(question["ability"] for question in asked) == dict.fromkeys(abilities.ABILITIES, 50)
    kinds = Counter((question["ability"], question["language"], question["job"]) for question in asked)
    assert len(kinds) == 24
    assert min(kinds.values()) >= 3


def test_each_question_about_an_ability_has_a_picture_of_its_own() -> None:
    pictures = [question["picture"] for question in abilities.questions()]
    assert len(set(pictures)) == len(pictures)
    assert all((EVALUATION / picture).is_file() for picture in pictures)


def test_questions_with_tools_expect_no_call_one_call_or_two() -> None:
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
def test_an_answer_is_correct_if_it_contains_what_its_question_expects(
    asked: dict[str, Any], message: dict[str, Any], right: bool
) -> None:
    assert abilities.is_right(asked, message) == right


async def test_tool_results_follow_their_calls_and_each_ability_has_a_score() -> None:
    roles = []

    def respond(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        roles.append([message["role"] for message in body["messages"]])
        return httpx.Response(200, json={"choices": [{"message": {"content": body["messages"][-1]["content"]}}]})

    asked = abilities.questions("results")[:3]
    async with httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://test") as client:
        results = await abilities.ask_all(client, asked, "m", concurrency=2)
    assert all(conversation[:3] == ["user", "assistant", "tool"] for conversation in roles)
    scores = abilities.summary(results)["results"]
    assert scores["n"] == 3
    assert (
        scores["score"] >= 0.3
    )  # this server repeats the last result, which has the expected fact if there was one call
