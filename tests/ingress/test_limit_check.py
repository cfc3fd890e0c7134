"""Limits through HTTP: 429 before the body, headers, what is charged, and places that are always freed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serve_app.access.key_file import LimitEntry, add_key, new_key
from tests.fakes import IMAGE_TOKENS, PROMPT_TOKENS, FakeAnswer
from tests.ingress.client import PNG, MakeClient, chat, events_of, picture, soon, text

URL = "/v1/chat/completions"
assert IMAGE_TOKENS < PROMPT_TOKENS

pytestmark = pytest.mark.usefixtures("within_a_window")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def key(file: Path, name: str = "shop", **limits: Any) -> dict[str, str]:
    made, entry = new_key(name, limits=LimitEntry(**limits))
    add_key(file, entry)
    return {"Authorization": f"Bearer {made}"}


async def test_without_limits_no_header_is_sent(make_client: MakeClient) -> None:
    response = await make_client().post(URL, json=chat())
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_have_openais_headers_and_a_refusal_says_when_to_retry(
    make_client: MakeClient, file: Path, stream: bool
) -> None:
    client = make_client(access={"keys_file": str(file)})
    client.headers.update(key(file, requests_per_second=0.1, tokens_per_minute=60_000, pictures_per_minute=9))
    answered = await client.post(URL, json=chat([picture(), text("What?")], stream=stream))
    assert answered.status_code == 200
    assert answered.headers["x-ratelimit-limit-requests"] == "1"
    assert answered.headers["x-ratelimit-remaining-requests"] == "0"
    assert answered.headers["x-ratelimit-limit-tokens"] == "60000"
    assert answered.headers["x-ratelimit-remaining-images"] == "8"
    assert answered.headers["x-ratelimit-reset-tokens"].endswith("s")
    refused = await client.post(URL, json=chat(stream=stream))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "10"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.json()["error"] == {
        "message": "The caller 'shop' may use 1 requests in 10 seconds; 0 are left, and this request needs 1.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }


async def test_a_caller_above_its_limit_is_refused_before_its_body_is_read(make_client: MakeClient, file: Path) -> None:
    client = make_client(access={"keys_file": str(file)})
    client.headers.update(key(file, requests_per_second=0.1))
    await client.post(URL, json=chat())
    read = 0

    async def body() -> Any:
        nonlocal read
        while True:
            read += 1
            yield b" " * 1024

    assert (await client.post("/v1/ask", content=body())).status_code == 429
    assert read == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_the_tokens_of_prompt_and_answer_are_charged(make_client: MakeClient, file: Path, stream: bool) -> None:
    client = make_client(FakeAnswer("Two ", "cats"), access={"keys_file": str(file)})
    client.headers.update(key(file, tokens_per_minute=5000))
    await client.post(URL, json=chat(max_tokens=1000, stream=stream))
    await asyncio.sleep(0.01)
    second = await client.post("/tokenize", json={"prompt": "Hi"})
    assert second.headers["x-ratelimit-remaining-tokens"] == str(5000 - PROMPT_TOKENS - 2)


async def test_a_request_that_is_refused_later_is_not_charged(make_client: MakeClient, file: Path) -> None:
    client = make_client(access={"keys_file": str(file)})
    client.headers.update(key(file, tokens_per_minute=5000))
    assert (await client.post(URL, json={"messages": 7})).status_code == 400
    await asyncio.sleep(0.01)
    response = await client.post("/tokenize", json={"prompt": "Hi"})
    assert response.headers["x-ratelimit-remaining-tokens"] == "5000"


async def test_max_tokens_that_do_not_fit_are_refused(make_client: MakeClient, file: Path) -> None:
    answer = FakeAnswer("a", hold_after=1)
    client = make_client(answer, access={"keys_file": str(file)})
    client.headers.update(key(file, tokens_per_minute=1000))
    first = asyncio.create_task(client.post(URL, json=chat(max_tokens=900)))
    await answer.held.wait()
    refused = await client.post(URL, json=chat(max_tokens=200))
    assert refused.status_code == 429
    assert "1000 tokens in 60 seconds" in refused.json()["error"]["message"]
    answer.release.set()
    assert (await first).status_code == 200


async def test_pictures_are_counted_in_forms_and_messages(make_client: MakeClient, file: Path) -> None:
    client = make_client(access={"keys_file": str(file)})
    client.headers.update(key(file, pictures_per_minute=3))
    form = {"files": {"image": PNG}, "data": {"question": "What?"}}
    assert (await client.post("/v1/ask", **form)).headers["x-ratelimit-remaining-images"] == "2"
    assert (await client.post(URL, json=chat([picture(), picture(), text("?")]))).status_code == 200
    assert (await client.post("/v1/ask", **form)).status_code == 429


async def test_requests_in_progress_are_limited_and_a_client_that_leaves_frees_its_place(
    serving: Any, file: Path
) -> None:
    answer = FakeAnswer("a", "b", hold_after=2)
    url = await serving(answer, access={"keys_file": str(file)})
    async with httpx.AsyncClient(base_url=url, headers=key(file, concurrent_requests=1)) as client:
        async with client.stream("POST", URL, json=chat(stream=True)) as response:
            assert response.status_code == 200
            refused = await client.post(URL, json=chat())
            assert refused.status_code == 429
            assert "The caller 'shop' has 1 requests in progress" in refused.json()["error"]["message"]
        await soon(lambda: answer.running == 0)
        answer.release.set()
        for _ in range(500):  # its place is free a moment after its answer has ended
            if (status := (await client.post(URL, json=chat())).status_code) != 429:
                break
            await asyncio.sleep(0.01)
        assert status == 200


async def test_other_callers_are_not_limited_and_health_and_lists_never_are(
    make_client: MakeClient, file: Path
) -> None:
    client = make_client(access={"keys_file": str(file)})
    shop, bank = key(file, requests_per_second=0.1), key(file, "bank", requests_per_second=0.1)
    statuses = [(await client.post(URL, json=chat(), headers=each)).status_code for each in (shop, shop, bank)]
    assert statuses == [200, 429, 200]
    for path in ("/healthz", "/v1/models"):
        assert {(await client.get(path, headers=shop)).status_code for _ in range(5)} == {200}


async def test_callers_without_a_key_share_one_limit(make_client: MakeClient) -> None:
    client = make_client(limits={"requests_per_second": 0.1})
    assert [(await client.post(URL, json=chat())).status_code for _ in range(2)] == [200, 429]


async def test_openais_client_raises_its_rate_limit_error_and_reads_the_headers(serving: Any, file: Path) -> None:
    url = await serving(access={"keys_file": str(file)})
    secret = key(file, requests_per_second=0.1)["Authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as client:
        messages = chat()["messages"]
        raw = await client.chat.completions.with_raw_response.create(model="glm-vision-demo", messages=messages)
        assert raw.headers["x-ratelimit-limit-requests"] == "1"
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="glm-vision-demo", messages=messages)
        assert refused.value.response.headers["retry-after"] == "10"


async def test_a_stream_is_sent_as_before(make_client: MakeClient, file: Path) -> None:
    client = make_client(access={"keys_file": str(file)})
    client.headers.update(key(file, tokens_per_minute=9999, concurrent_requests=1))
    for _ in range(3):
        assert events_of(await client.post(URL, json=chat(stream=True)))[-1] == "[DONE]"
        await asyncio.sleep(0.01)


async def test_all_prompts_of_a_request_are_estimated(make_client: MakeClient, file: Path) -> None:
    """Only the first one was, so that one request could use any number of tokens at once."""
    client = make_client(access={"keys_file": str(file)})
    client.headers.update(key(file, tokens_per_minute=10_000))
    body = {"prompt": "Hi", "n": 2, "max_tokens": 10}
    assert (await client.post("/v1/completions", json=body)).status_code == 200
    refused = await client.post("/v1/completions", json=body | {"prompt": ["Hi", *["x" * 6_000] * 4]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
