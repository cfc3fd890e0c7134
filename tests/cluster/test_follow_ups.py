"""Follow-ups about a picture over the real service: the same answers, also by an engine that restarted"""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from benchmarks.photograph import photograph
from tests.cluster.conftest import Service
from tests.cluster.questions import data_url, picture_body
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster
EXPORT_LIMIT_S = 40  # Ray exports a changed counter after 10 to 20 s
PICTURE = data_url(photograph(640, 480, seed=77))


def about(picture: str, question: str) -> dict[str, Any]:
    return picture_body(picture, question, max_tokens=24, ignore_eos=True, logprobs=True)


def ask(service: Service, body: dict[str, Any]) -> tuple[str, list[float]]:
    """The text of the answer and its log probabilities."""
    response = httpx.post(f"{service.base_url}/v1/chat/completions", json=body, timeout=120)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice["message"]["content"], [each["logprob"] for each in choice["logprobs"]["content"]]


def without_pixels(service: Service) -> dict[str, float]:
    """How many pictures without pixels the engine knew and needed so far."""
    page = httpx.get(service.metrics_url, timeout=20).text
    lines = re.findall(r'^ray_glm_pictures_without_pixels_total\{.*result="(\w+)".*\} (\S+)$', page, re.M)
    found = {"known": 0.0, "needed": 0.0}
    for result, value in lines:
        found[result] += float(value)
    return found


def test_a_follow_up_without_pixels_has_the_answer_that_it_has_with_them(service: Service):
    before = without_pixels(service)
    with_pixels = ask(service, about(PICTURE, "Which number is on the label?"))
    ask(service, about(PICTURE, "Who is it for?"))
    assert ask(service, about(PICTURE, "Which number is on the label?")) == with_pixels
    known = before["known"] + 2
    wait_until(lambda: without_pixels(service)["known"] >= known, EXPORT_LIMIT_S, lambda: str(without_pixels(service)))


def test_the_prompt_of_a_follow_up_is_made_without_preprocess(service: Service):
    """The timings say so: preprocess always needs some time to open an upload."""
    picture = data_url(photograph(640, 480, seed=79))
    spent = []
    for question in ("Which number is on the label?", "Who is it for?"):
        body = about(picture, question)
        spent.append(httpx.post(f"{service.base_url}/v1/chat/completions", json=body, timeout=120).json()["timings"])
    assert spent[0]["fetch_ms"] > 0 == spent[1]["fetch_ms"]
    assert spent[1]["tokenize_ms"] > 0


def test_an_engine_that_has_restarted_gets_the_pixels_that_it_has_not(service: Service):
    picture = data_url(photograph(640, 480, seed=78))
    with_pixels = ask(service, about(picture, "Which number is on the label?"))
    before = without_pixels(service)
    (engine,) = service.processes("glm:engine")
    engine.kill()
    engine.wait(10)
    assert ask(service, about(picture, "Which number is on the label?")) == with_pixels
    needed = before["needed"] + 1
    wait_until(
        lambda: without_pixels(service)["needed"] >= needed, EXPORT_LIMIT_S, lambda: str(without_pixels(service))
    )
