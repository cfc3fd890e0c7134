"""GLM-4V-9B in its original layout, small and random, through the service: picture in, text out."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import Service, started
from tests.cluster.questions import chat_body, questions
from tests.engine.model.original_glm4v_9b import SMALL, changed, write_folder
from tests.preprocess.vocabulary import trained, write_tokenizer_model

pytestmark = pytest.mark.cluster

PICTURE_TOKENS = 6  # 56x56 pixels: four patches of two by two, and two marks


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A checkpoint as it is published: shards under the original names, tokenizer.model, no remote code."""
    folder = tmp_path_factory.mktemp("glm-4v-9b")
    first = len(trained())
    ids = {"pad_token_id": first, "boi_token_id": first + 10, "eoi_token_id": first + 11}
    stops = [first, first + 7, first + 9]
    vocabulary = -(-(first + 14) // 64) * 64
    write_folder(folder, changed(SMALL, padded_vocab_size=vocabulary, eos_token_id=stops, **ids), shards=3)
    write_tokenizer_model(folder / "tokenizer.model", trained())
    with started(tmp_path_factory.mktemp("service"), "--model", str(folder), "--name", "small") as running:
        yield running


def ask(service: Service, body: dict[str, Any]) -> httpx.Response:
    with service.client() as client:
        return client.post("/v1/chat/completions", json=body)


def test_it_answers_about_a_picture_and_keeps_it_over_turns(small: Service) -> None:
    body = chat_body(questions(per_job=1)[0], max_tokens=8)
    first = ask(small, body)
    assert first.status_code == 200, first.text
    assert first.json()["usage"]["prompt_tokens_details"]["image_tokens"] == PICTURE_TOKENS
    assert first.json()["images"][0]["seen_size"] == [56, 56]
    history = [{"role": "assistant", "content": "一张面单。"}, {"role": "user", "content": "电话呢？"}]
    second = ask(small, {**body, "messages": [*body["messages"], *history]})
    assert second.status_code == 200, second.text
    assert second.json()["usage"]["prompt_tokens_details"]["image_tokens"] == PICTURE_TOKENS


def test_the_picture_changes_the_answer_and_an_answer_does_not_change_by_itself(small: Service) -> None:
    bodies = [chat_body({**question, "question": "?"}, max_tokens=12) for question in questions(per_job=3)]
    texts = [ask(small, body).json()["choices"][0]["message"]["content"] for body in bodies]
    assert len(set(texts)) > 1
    assert texts == [ask(small, body).json()["choices"][0]["message"]["content"] for body in bodies]


def test_a_second_picture_is_refused_with_a_sentence_that_says_so(small: Service) -> None:
    body = chat_body(questions(per_job=1)[0])
    body["messages"][0]["content"] *= 2
    response = ask(small, body)
    assert response.status_code == 400
    assert "2 pictures; the served model accepts at most 1" in response.json()["error"]["message"]


def test_it_says_what_it_can_do_and_refuses_the_rest(small: Service) -> None:
    with small.client() as client:
        (model,) = client.get("/v1/models").json()["data"]
    assert "vision" in model["abilities"]
    assert not {"tools", "thinking", "multiple_images"} & set(model["abilities"])
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {}}}}
    response = ask(small, chat_body(questions(per_job=1)[0], tools=[tool]))
    assert (response.status_code, response.headers["x-ignored-fields"]) == (200, "tools")
    required = ask(small, chat_body(questions(per_job=1)[0], tools=[tool], tool_choice="required"))
    assert (required.status_code, required.json()["error"]["param"]) == (400, "tool_choice")


def test_its_answers_can_be_held_to_a_form(small: Service) -> None:
    body = chat_body(questions(per_job=1)[0], structured_outputs={"choice": ["合格", "不合格"]})
    assert ask(small, body).json()["choices"][0]["message"]["content"] in ("合格", "不合格")
