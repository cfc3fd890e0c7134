"""Several answers to one question: generated at once, merged in one response, failing together."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serve_app.errors import Overloaded
from tests.fakes import FakeAnswer, FakeAnswers, FakeMeter
from tests.ingress.client import MakeClient, chat, events_of, soon

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    *lines, done = events_of(response)
    assert done == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_each_answer_is_a_choice_and_the_prompt_counts_once(make_client: MakeClient) -> None:
    answers = FakeAnswers(FakeAnswer("red"), FakeAnswer("deep ", "blue", reason="length"))
    reply = (await make_client(answers).post(CHAT, json=chat(n=2))).json()
    assert [(each["index"], each["message"]["content"], each["finish_reason"]) for each in reply["choices"]] == [
        (0, "red", "stop"),
        (1, "deep blue", "length"),
    ]
    assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (40, 3)
    assert reply["usage"]["prompt_tokens_details"]["image_tokens"] == 30


async def test_ids_and_seeds_follow_from_the_requests(make_client: MakeClient) -> None:
    answers = FakeAnswers(*(FakeAnswer("x") for _ in range(3)))
    reply = (await make_client(answers).post(CHAT, json=chat(n=3, seed=2**63 - 2))).json()
    assert [request.id for request in answers.requests] == [f"{reply['id']}-{index}" for index in range(3)]
    assert [request.sampling.seed for request in answers.requests] == [2**63 - 2, 2**63 - 1, -(2**63)]


async def test_without_a_seed_none_is_made(make_client: MakeClient) -> None:
    answers = FakeAnswers(FakeAnswer("x"), FakeAnswer("y"))
    await make_client(answers).post(CHAT, json=chat(n=2))
    assert [request.sampling.seed for request in answers.requests] == [None, None]


async def test_one_answer_keeps_the_requests_id_and_seed(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    reply = (await make_client(answer).post(CHAT, json=chat(n=1, seed=5))).json()
    assert (answer.requests[0].id, answer.requests[0].sampling.seed) == (reply["id"], 5)


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_more_answers_than_the_service_gives_are_refused(make_client: MakeClient, path: str) -> None:
    body = chat(n=4) if path == CHAT else {"prompt": "x", "n": 4}
    response = await make_client(settings={"max_choices": 3}).post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "'n' is 4; this service gives 3 answers at most."


async def test_streamed_answers_have_their_index(make_client: MakeClient) -> None:
    answers = FakeAnswers(FakeAnswer("a", "b"), FakeAnswer("c", reason="length"), FakeAnswer())
    body = chat(n=3, stream=True, stream_options={"include_usage": True})
    chunks = chunks_of(await make_client(answers).post(CHAT, json=body))
    *pieces, last = chunks
    texts = {index: "" for index in range(3)}
    for chunk in pieces:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "ab", 1: "c", 2: ""}
    roles = Counter(c["choices"][0]["index"] for c in pieces if "role" in c["choices"][0]["delta"])
    assert roles == {0: 1, 1: 1, 2: 1}
    ends = {c["choices"][0]["index"]: c["choices"][0]["finish_reason"] for c in pieces}
    assert ends == {0: "stop", 1: "length", 2: "stop"}
    assert ["timings" in chunk for chunk in pieces].count(True) == 1
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (40, 3)


async def test_a_quick_answer_does_not_wait_for_a_slow_one(serving: Callable[..., Any]) -> None:
    slow = FakeAnswer("late", hold_after=0)
    url = await serving(FakeAnswers(slow, FakeAnswer("quick")))
    async with httpx.AsyncClient() as client, client.stream("POST", url + CHAT, json=chat(n=2, stream=True)) as got:
        lines = got.aiter_lines()
        seen = ""
        async with asyncio.timeout(5):
            while '"finish_reason":"stop"' not in seen:
                seen += await anext(lines)
        assert "quick" in seen
        assert "late" not in seen
        slow.release.set()
        rest = "".join([line async for line in lines])
    assert "late" in rest


@pytest.mark.parametrize("stream", [True, False])
async def test_one_refused_answer_refuses_all_and_stops_the_others(make_client: MakeClient, stream: bool) -> None:
    waiting = FakeAnswer("x", hold_after=1)  # has started
    refused = FakeAnswer("y", error=Overloaded("The queue is full."))
    response = await make_client(FakeAnswers(waiting, refused)).post(CHAT, json=chat(n=2, stream=stream))
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "The queue is full."
    assert (waiting.running, waiting.closed_early) == (0, 1)


async def test_a_late_error_of_one_answer_is_sent_in_the_stream_and_stops_the_others(make_client: MakeClient) -> None:
    waiting = FakeAnswer("x", "y", hold_after=2)
    failing = FakeAnswer("a", "b", error=Overloaded("No memory left."), fail_after=2)
    response = await make_client(FakeAnswers(waiting, failing)).post(CHAT, json=chat(n=2, stream=True))
    assert response.status_code == 200
    assert json.loads(events_of(response)[-2])["error"]["message"] == "No memory left."
    assert (waiting.running, waiting.closed_early) == (0, 1)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_stopped_from_inside_fails_all(make_client: MakeClient, stream: bool) -> None:
    answers = FakeAnswers(FakeAnswer("x", hold_after=0), FakeAnswer("y", error=asyncio.CancelledError()))
    response = await make_client(answers).post(CHAT, json=chat(n=2, stream=stream))
    assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_breaks_off_fails_all(make_client: MakeClient, stream: bool) -> None:
    answers = FakeAnswers(FakeAnswer("x"), FakeAnswer("y", break_off=True))
    response = await make_client(answers).post(CHAT, json=chat(n=2, stream=stream))
    error = json.loads(events_of(response)[-2])["error"] if stream else response.json()["error"]
    assert error["code"] == "engine_error"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_stops_all_answers(serving: Callable[..., Any], stream: bool) -> None:
    first, second, meter = FakeAnswer("x", "y", hold_after=2), FakeAnswer("z", hold_after=1), FakeMeter()
    url = await serving(FakeAnswers(first, second), meter=meter)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(url + CHAT, json=chat(n=2, stream=stream)))
        async with asyncio.timeout(5):
            await first.held.wait()
            await second.held.wait()
            asking.cancel()
        await soon(lambda: meter.counts["glm_cancellations_total",] == 1)
    assert (first.running, second.running) == (0, 0)
    assert (first.closed_early, second.closed_early) == (1, 1)


async def test_several_answers_are_measured_as_one_request(make_client: MakeClient) -> None:
    meter = FakeMeter()
    await make_client(FakeAnswers(FakeAnswer("a", "b"), FakeAnswer("c", "d")), meter=meter).post(CHAT, json=chat(n=2))
    assert len(meter.observed["glm_first_token_seconds",]) == 1
    assert len(meter.observed["glm_output_token_seconds",]) == 1
    assert meter.counts["glm_requests_total", CHAT, "200"] == 1
