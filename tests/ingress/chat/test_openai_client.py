"""OpenAI's own Python client, unchanged, against a real port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from serve_app.contracts import ChatRequest, Events, ImagePart
from serve_app.errors import (
    ContextTooLong,
    DeadlineExceeded,
    Forbidden,
    ImageRejected,
    Overloaded,
    RateLimited,
    ServiceError,
    Unauthenticated,
)
from tests.fakes import FakeAnswer
from tests.ingress.client import MODEL, PICTURE_URL, Connect

MESSAGES: Any = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": PICTURE_URL, "detail": "high"}},
            {"type": "text", "text": "What colour?"},
        ],
    },
]


async def test_a_non_streaming_answer_about_a_picture(connect: Connect) -> None:
    answer = FakeAnswer("Deep ", "red.")
    client = await connect(answer)
    completion = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=16, temperature=0, stop=["\n"], seed=1, user="ann"
    )
    assert completion.choices[0].message.content == "Deep red."
    assert completion.usage.prompt_tokens_details.image_tokens == 30
    assert completion.usage.prompt_tokens_details.text_tokens == 10
    assert completion._request_id == "id1"
    assert isinstance(answer.requests[0].messages[1].parts[0], ImagePart)


async def test_a_streamed_answer_with_its_usage(connect: Connect) -> None:
    client = await connect(FakeAnswer("深", "红"))
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "深红"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 2


async def test_the_accumulating_stream_helper_ends_with_a_complete_completion(connect: Connect) -> None:
    client = await connect(FakeAnswer("Deep ", "red."))
    async with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
        async for _ in stream:
            pass
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.content == "Deep red."
    assert completion.choices[0].finish_reason == "stop"


async def test_an_answer_can_be_sent_back_as_it_came(connect: Connect) -> None:
    client = await connect(FakeAnswer("Red."))
    first = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    again: Any = [*MESSAGES, first.choices[0].message, {"role": "user", "content": "Sure?"}]
    assert (await client.chat.completions.create(model=MODEL, messages=again)).choices
    again[2] = first.choices[0].message.model_dump()
    assert (await client.chat.completions.create(model=MODEL, messages=again)).choices


async def test_the_blocking_client_works_too(serving: Callable[..., Any]) -> None:
    url = await serving(FakeAnswer("Deep ", "red."))

    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            complete = client.chat.completions.create(model=MODEL, messages=MESSAGES)
            chunks = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            return complete.choices[0].message.content, streamed

    assert await asyncio.to_thread(ask) == ("Deep red.", "Deep red.")


async def test_models_are_listed_and_found(connect: Connect) -> None:
    client = await connect(FakeAnswer("x"))
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).owned_by == "glm-vision-serve"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-4o")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ImageRejected("No.", "messages[1].content[0].image_url"), openai.BadRequestError),
        (ContextTooLong("No."), openai.BadRequestError),
        (Unauthenticated("No."), openai.AuthenticationError),
        (Forbidden("No."), openai.PermissionDeniedError),
        (RateLimited("No."), openai.RateLimitError),
        (Overloaded("No."), openai.InternalServerError),
        (DeadlineExceeded("No."), openai.InternalServerError),
    ],
    ids=lambda value: getattr(value, "code", None),
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_is_the_clients_own_class_with_our_code(
    connect: Connect, error: ServiceError, raised: type[openai.APIStatusError], stream: bool
) -> None:
    client = await connect(FakeAnswer("x", error=error))
    with pytest.raises(raised) as caught:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
    assert (caught.value.code, caught.value.param) == (error.code, error.param)
    assert caught.value.status_code == error.status


async def test_a_refused_request_is_a_bad_request_error_with_its_param(connect: Connect) -> None:
    client = await connect(FakeAnswer("x"))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, n=9)
    assert caught.value.param == "n"
    with pytest.raises(openai.NotFoundError) as not_found:
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert not_found.value.code == "model_not_found"


async def test_a_failure_amid_the_stream_raises_in_the_client(connect: Connect) -> None:
    client = await connect(FakeAnswer("Deep ", "red.", error=Overloaded("No memory left."), fail_after=2))
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", "Deep "]
    with pytest.raises(openai.APIError, match=r"No memory left\."):
        await anext(stream)


@pytest.mark.parametrize("error", [RateLimited, Overloaded])
async def test_the_client_retries_after_the_time_of_the_header(connect: Connect, error: type[ServiceError]) -> None:
    attempts: list[float] = []

    def answer(request: ChatRequest) -> Events:
        attempts.append(time.monotonic())
        return FakeAnswer("Red.", error=error("Come back.") if len(attempts) == 1 else None)(request)

    client = await connect(answer, max_retries=1)
    completion = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert completion.choices[0].message.content == "Red."
    first, second = attempts
    assert 0.9 <= second - first <= 3  # Retry-After: 1; the client's own first wait is at most 0.5 s
