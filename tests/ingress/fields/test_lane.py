"""The lane of a request: marked by a field, or recognised as a front end's background request."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.ingress.completions.request import CompletionBody, completion_requests
from serve_app.ingress.responses.request import ResponseBody, response_request
from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, chat, parse_chat, picture, text

# Open WebUI, open_webui/config.py: DEFAULT_*_PROMPT_TEMPLATE
HISTORY = "### Chat History:\n<chat_history>\nUSER: What is this?\nASSISTANT: A label.\n</chat_history>"
NEW_TITLE = f"### Task:\nGenerate a concise title summarizing the chat history.\n{HISTORY}"  # 0.12.4
NEW_FOLLOW_UPS = f"### Task:\nPredict 3-5 useful messages this user might naturally send next.\n{HISTORY}"
TITLE = f"### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n{HISTORY}"
TAGS = f"### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history.\n{HISTORY}"
FOLLOW_UPS = (
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might naturally ask next in this "
    f"conversation as a **user**.\n{HISTORY}"
)
SEARCH = f"### Task:\nAnalyze the chat history to determine the necessity of generating search queries.\n{HISTORY}"
DOCUMENTS = "### Task:\nRespond to the user query using the provided context, incorporating inline citations."
COMPLETION = "### Task:\nYou are an autocompletion system. Continue the text in `<text>`."


def lane_of(body: dict[str, Any]) -> str:
    return parse_chat(body).lane


@pytest.mark.parametrize("prompt", [NEW_TITLE, NEW_FOLLOW_UPS, TITLE, TAGS, FOLLOW_UPS, f"\n  {TITLE}"])
def test_background_requests_of_open_webui_are_in_the_batch_lane(prompt: str) -> None:
    assert lane_of(chat(prompt)) == "batch"
    assert lane_of(chat([text(prompt)])) == "batch"


@pytest.mark.parametrize("prompt", [SEARCH, DOCUMENTS, COMPLETION, "Generate a concise, 3-5 word title.", "### Task:"])
def test_requests_whose_answer_a_user_waits_for_are_interactive(prompt: str) -> None:
    assert lane_of(chat(prompt)) == "interactive"


def test_a_question_after_a_background_request_is_interactive() -> None:
    history = [{"role": "user", "content": TITLE}, {"role": "assistant", "content": "{}"}]
    assert lane_of({"messages": [*history, {"role": "user", "content": "What is this?"}]}) == "interactive"
    assert lane_of(chat([picture()])) == "interactive"


@pytest.mark.parametrize(
    ("fields", "lane"),
    [
        ({"service_tier": "flex"}, "batch"),
        ({"service_tier": "auto"}, "interactive"),
        ({"service_tier": "priority"}, "interactive"),
        ({"priority": 0}, "interactive"),
        ({"priority": 5}, "batch"),
        ({"priority": None, "service_tier": None}, "interactive"),
    ],
)
def test_a_field_marks_a_request_in_every_api(fields: dict[str, Any], lane: str) -> None:
    assert lane_of(chat("x", **fields)) == lane
    response = ResponseBody.read({"input": "x", **fields})
    assert response_request(response, id="one", deadline_s=9.0).lane == lane
    (completion,) = completion_requests(CompletionBody.read({"prompt": "x", **fields}), id="one", deadline_s=9.0)
    assert completion.lane == lane


async def test_the_response_names_the_tier(make_client: MakeClient) -> None:
    client = make_client(FakeAnswer("x"))
    reply = (await client.post("/v1/chat/completions", json=chat("x", service_tier="flex"))).json()
    assert reply["service_tier"] == "flex"
    reply = (await client.post("/v1/responses", json={"input": "x", "service_tier": "flex"})).json()
    assert reply["service_tier"] == "flex"


async def test_a_priority_below_zero_is_refused_by_name(make_client: MakeClient) -> None:
    response = await make_client().post("/v1/chat/completions", json=chat("x", priority=-1))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "priority")
