"""The fixed evaluation set, and the benchmark that scores an endpoint on it."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks import jobs
from serve_app.demo import batches


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
