"""The answer cache through HTTP: headers, usage, streams, and requests that do not use it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.cache.answer_cache import AnswerCache
from serve_app.contracts import ChatRequest, Delta, Events, Prompt
from serve_app.ingress.respond import cache_use
from serve_app.metrics import SilentMeter
from serve_app.settings_cache import CacheSettings
from tests.cache.conftest import prompt_of
from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, chat, events_of

CHAT = "/v1/chat/completions"


class CachedAnswer:
    """An `Answer` with the cache between it and the fake model."""

    def __init__(self, *deltas: str | Delta) -> None:
        self.model = FakeAnswer(*deltas)
        self.cache = AnswerCache(CacheSettings(), "fp_1", SilentMeter())

    def __call__(self, request: ChatRequest) -> Events:
        async def prepare() -> Prompt:
            return prompt_of(request)

        def generate(prompt: Prompt) -> Events:
            return self.model(request)

        if not self.cache.applies_to(request):
            return self.model(request)
        return self.cache.answer(request, prepare, generate)

    @property
    def generated(self) -> int:
        return len(self.model.requests)


async def test_a_repeated_question_says_hit_and_counts_its_prompt_as_cached(make_client: MakeClient) -> None:
    answer = CachedAnswer("Two ", "cats")
    client = make_client(answer)
    first, second = [await client.post(CHAT, json=chat(temperature=0)) for _ in range(2)]
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["id"] != second.json()["id"]
    assert [r.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for r in (first, second)] == [0, 40]
    assert "cache_ms" in second.json()["timings"]
    assert "prefill_ms" not in second.json()["timings"]
    assert answer.generated == 1


async def test_a_kept_answer_is_streamed_too(make_client: MakeClient) -> None:
    answer = CachedAnswer("Two ", "cats")
    client = make_client(answer)
    whole = await client.post(CHAT, json=chat(temperature=0))
    body = chat(temperature=0, stream=True, stream_options={"include_usage": True})
    streamed = await client.post(CHAT, json=body)
    assert streamed.headers["x-cache"] == "hit"
    *chunks, done = events_of(streamed)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    text = "".join(choice["delta"].get("content", "") for chunk in parsed for choice in chunk["choices"])
    assert text == whole.json()["choices"][0]["message"]["content"]
    assert parsed[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 40
    assert answer.generated == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Once", "temperature": 0}),
        ("/v1/responses", {"input": "Which number?", "temperature": 0}),
    ],
)
async def test_the_other_apis_use_it_too(make_client: MakeClient, path: str, body: dict[str, Any]) -> None:
    client = make_client(CachedAnswer("Two"))
    assert [(await client.post(path, json=body)).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]


async def test_responses_count_cached_tokens(make_client: MakeClient) -> None:
    client = make_client(CachedAnswer("Two"))
    for expected in (0, 40):
        reply = await client.post("/v1/responses", json={"input": "Which number?", "temperature": 0})
        assert reply.json()["usage"]["input_tokens_details"]["cached_tokens"] == expected


async def test_a_sampled_answer_is_not_kept_and_says_nothing_of_the_cache(make_client: MakeClient) -> None:
    answer = CachedAnswer("Two")
    client = make_client(answer)
    for _ in range(2):
        assert "x-cache" not in (await client.post(CHAT, json=chat())).headers
    assert answer.generated == 2


async def test_no_store_neither_reads_nor_keeps_an_answer(make_client: MakeClient) -> None:
    answer = CachedAnswer("Two")
    client = make_client(answer)
    for headers in ({"Cache-Control": "no-store"}, {}, {"Cache-Control": "private, No-Store"}):
        response = await client.post(CHAT, json=chat(temperature=0), headers=headers)
        assert response.headers.get("x-cache") == (None if headers else "miss")
    assert answer.generated == 3


async def test_no_cache_generates_the_answer_again(make_client: MakeClient) -> None:
    answer = CachedAnswer("Two")
    client = make_client(answer)
    await client.post(CHAT, json=chat(temperature=0))
    response = await client.post(CHAT, json=chat(temperature=0), headers={"Cache-Control": "no-cache"})
    assert (response.headers["x-cache"], answer.generated) == ("miss", 2)


async def test_two_deterministic_choices_are_generated_once_and_counted_twice(make_client: MakeClient) -> None:
    answer = CachedAnswer("Two ", "cats")
    body = (await make_client(answer).post(CHAT, json=chat(temperature=0, n=2))).json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["Two cats"] * 2
    assert (answer.generated, body["usage"]["completion_tokens"]) == (1, 4)


@pytest.mark.parametrize(
    ("header", "use"),
    [("", "use"), ("max-age=60", "use"), ("max-age=0", "refresh"), ("no-cache", "refresh"), ("No-Store", "off")],
)
def test_what_cache_control_means(header: str, use: str) -> None:
    assert cache_use({"cache-control": header}) == use


async def test_feedback_through_http_removes_the_answer(make_client: MakeClient) -> None:
    answer = CachedAnswer("Two")
    client = make_client(answer, feedback=answer.cache.rate)
    first = (await client.post(CHAT, json=chat(temperature=0))).json()
    reply = await client.post("/v1/feedback", json={"id": first["id"], "rating": "down", "comment": "Wrong."})
    assert reply.json() == {"id": first["id"], "rating": "down", "removed": 1}
    assert (await client.post(CHAT, json=chat(temperature=0))).headers["x-cache"] == "miss"


@pytest.mark.parametrize("body", [{}, {"id": "a"}, {"id": "a", "rating": "sideways"}, {"id": "", "rating": "up"}])
async def test_feedback_that_says_nothing_is_refused(make_client: MakeClient, body: dict[str, Any]) -> None:
    assert (await make_client().post("/v1/feedback", json=body)).status_code == 400


async def test_feedback_is_accepted_where_there_is_no_cache(make_client: MakeClient) -> None:
    reply = await make_client().post("/v1/feedback", json={"id": "chatcmpl-1", "rating": "up"})
    assert reply.json()["removed"] == 0
