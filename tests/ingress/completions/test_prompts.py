"""Prompts of /v1/completions: lists of texts, token ids, echo, and the choices of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes import FakeAnswer, FakeAnswers
from tests.ingress.client import MakeClient, events_of

URL = "/v1/completions"


def answers(*texts: str) -> FakeAnswers:
    return FakeAnswers(*(FakeAnswer(text) for text in texts))


async def completed(make_client: MakeClient, answer: Any, **fields: Any) -> list[dict[str, Any]]:
    response = await make_client(answer).post(URL, json=fields)
    assert response.status_code == 200, response.text
    choices: list[dict[str, Any]] = response.json()["choices"]
    return choices


async def test_each_prompt_of_a_list_has_its_choice(make_client: MakeClient) -> None:
    answer = answers("1", "2", "3")
    choices = await completed(make_client, answer, prompt=["one", "two", "three"])
    assert [(choice["index"], choice["text"]) for choice in choices] == [(0, "1"), (1, "2"), (2, "3")]
    assert [request.text for request in answer.requests] == ["one", "two", "three"]
    assert [request.param for request in answer.requests] == ["prompt[0]", "prompt[1]", "prompt[2]"]
    assert len({request.id for request in answer.requests}) == 3


async def test_the_choices_of_one_prompt_stand_together(make_client: MakeClient) -> None:
    answer = answers("a", "b", "c", "d")
    choices = await completed(make_client, answer, prompt=["one", "two"], n=2, seed=5)
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert [request.text for request in answer.requests] == ["one", "one", "two", "two"]
    assert [request.sampling.seed for request in answer.requests] == [5, 6, 5, 6]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ([5, 6.0, 7], [(5, 6, 7)]),
        ([[5, 6], [7]], [(5, 6), (7,)]),
        (["one"], ["one"]),
        ("one", ["one"]),
    ],
)
async def test_a_prompt_may_be_token_ids(make_client: MakeClient, prompt: Any, read: list[Any]) -> None:
    answer = answers("1", "2")
    await completed(make_client, answer, prompt=prompt)
    assert [request.text for request in answer.requests] == read


@pytest.mark.parametrize("stream", [True, False])
async def test_echo_repeats_each_prompt_before_its_choices(make_client: MakeClient, stream: bool) -> None:
    body = {"prompt": ["one", "two"], "n": 2, "echo": True, "stream": stream}
    response = await make_client(answers("1", "2", "3", "4")).post(URL, json=body)
    texts: dict[int, str] = {}
    for line in events_of(response)[:-1] if stream else [response.text]:
        for choice in json.loads(line)["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "one1", 1: "one2", 2: "two3", 3: "two4"}


async def test_echo_comes_with_an_answer_without_text(make_client: MakeClient) -> None:
    body = {"prompt": "one", "echo": True, "stream": True}
    lines = events_of(await make_client(FakeAnswer()).post(URL, json=body))[:-1]
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == "one"


async def test_the_first_chunk_of_a_stream_has_text(make_client: MakeClient) -> None:
    """Load tools take the first chunk for the first token; an empty one came before the prompt was read."""
    lines = events_of(await make_client(FakeAnswer("a", "b")).post(URL, json={"prompt": "x", "stream": True}))
    assert json.loads(lines[0])["choices"][0]["text"] == "a"


async def test_a_text_may_be_completed_without_special_tokens(make_client: MakeClient) -> None:
    answer = answers("1", "2")
    await completed(make_client, answer, prompt=["one", "two"], add_special_tokens=False)
    assert [request.special_tokens for request in answer.requests] == [False, False]
    answer = answers("1")
    await completed(make_client, answer, prompt="one", add_special_tokens=None)
    assert answer.requests[0].special_tokens
