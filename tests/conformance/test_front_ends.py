"""Front ends: Gradio's `load_chat` as it is, and the requests that Open WebUI sends with its defaults."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conformance import open_webui
from tests.conformance.clients import Result
from tests.conformance.task import ANSWER, FOLLOW_UP_ANSWER

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize("check", ["conversation", "conversation_without_streaming"])
def test_gradio_gets_an_answer_to_a_second_question(result: Result, check: str) -> None:
    """It sends its own notes on every message, most of them null; it sets no temperature, so the texts vary."""
    first, second = result("gradio", check)["texts"]
    assert first
    assert second


@pytest.fixture
def client(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=120) as client:
        yield client


def streamed(client: httpx.Client, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The text of a stream and its chunks."""
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    *lines, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert not [chunk for chunk in chunks if "error" in chunk]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas), chunks


def test_a_first_question_about_a_picture_is_answered(client: httpx.Client) -> None:
    text, chunks = streamed(client, open_webui.question())
    assert text == ANSWER
    timings = chunks[-1]["timings"]  # what the bubble with the speed of an answer reads
    assert timings["prompt_n"] > 200
    assert timings["predicted_n"] > 1
    assert timings["prompt_ms"] > 0
    assert timings["predicted_ms"] > 0
    assert chunks[-1]["usage"]["prompt_tokens"] == timings["prompt_n"]


def test_with_some_of_its_built_in_tools_the_question_is_answered_too(client: httpx.Client) -> None:
    text, _ = streamed(client, open_webui.question(tools=open_webui.BUILT_IN_TOOLS[:4]))
    assert text


def test_all_36_built_in_tools_are_to_blame_where_the_context_is_too_short(client: httpx.Client) -> None:
    """They are attached to each message by default: 26 KB, too many tokens for the demo model's small vocabulary."""
    body = open_webui.question(tools=open_webui.BUILT_IN_TOOLS)
    assert len(json.dumps(body["tools"])) > 26_000
    response = client.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "tools", "context_length_exceeded")
    assert re.search(r"\(\d+ in the messages, \d+ in the tools\)", error["message"])


def test_a_follow_up_is_about_the_picture_of_the_first_question(client: httpx.Client) -> None:
    text, _ = streamed(client, open_webui.follow_up(ANSWER))
    assert text == FOLLOW_UP_ANSWER


def test_an_answer_can_be_generated_again(client: httpx.Client) -> None:
    """The button sends the conversation up to the question once more."""
    assert streamed(client, open_webui.question())[0] == streamed(client, open_webui.question())[0]


@pytest.mark.parametrize("provider", ["openai", "llama.cpp"])
def test_an_answer_can_be_continued(client: httpx.Client, provider: str) -> None:
    text, _ = streamed(client, open_webui.continued(ANSWER[:4], provider))
    assert ANSWER[:4] + text == ANSWER


@pytest.mark.parametrize("task", sorted(open_webui.TASKS))
def test_a_background_task_is_answered(client: httpx.Client, task: str) -> None:
    response = client.post("/v1/chat/completions", json=open_webui.background(task, ANSWER))
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"]
