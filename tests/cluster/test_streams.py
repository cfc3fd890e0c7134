"""500 random prompts through the whole service: the stream is the whole answer, its usage the ids counted."""

import asyncio
import json
import random
from typing import Any

import httpx
import pytest

from tests.cluster.questions import chat_body, questions

pytestmark = pytest.mark.cluster

PROMPTS = 500
WITH_PICTURE = 60  # of them; the others are text, which is ten times quicker here
AT_ONCE = 16
WORDS = [
    "图片里",
    "面单",
    "运单号",
    "收件人",
    "电话",
    "红灯",
    "板子",
    "焊点",
    "短路",
    "合同",
    "总金额",
    "第三行",
    "是什么",
    "多少",
    "吗",
    "？",
    "。",
    "😀",
    "label",
    "number",
    "what",
    "where",
    "is",
    "the",
    "colour",
    "of",
    "LED",
    "U7",
    "R12",
    "total",
    "invoice",
    "2026",
    "<|user|>",
    "{}",
    "\\n",
    "```",
    "é",
    "ñ",
]


def random_bodies(seed: int) -> list[dict[str, Any]]:
    """Questions of random words at temperature 1.3, so that answers are of any bytes at all."""
    rng = random.Random(seed)
    shown = questions(per_job=WITH_PICTURE // 3)
    bodies = []
    for number in range(PROMPTS):
        settings = {"temperature": 1.3, "seed": number, "max_tokens": rng.randint(1, 40)}
        words = " ".join(rng.choices(WORDS, k=rng.randint(1, 30)))
        if number < WITH_PICTURE:
            bodies.append(chat_body({**shown[number], "question": words}, **settings))
        else:
            bodies.append({"messages": [{"role": "user", "content": words}], **settings})
    return bodies


async def whole(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    reply = response.json()
    return reply["choices"][0]["message"]["content"], reply["usage"], reply["choices"][0]["finish_reason"]


async def streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[list[str], dict[str, Any], str]:
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    pieces, usage, reason = [], {}, ""
    async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if not line or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                pieces.append(choice["delta"].get("content") or "")
                reason = choice["finish_reason"] or reason
    return pieces, usage, reason


async def test_500_random_answers_stream_as_they_are_whole(base_url: str) -> None:
    door = asyncio.Semaphore(AT_ONCE)

    async def both(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[Any, Any]:
        async with door:
            return await whole(client, body), await streamed(client, body)

    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        answers = await asyncio.gather(*(both(client, body) for body in random_bodies(seed=1)))
    assert len(answers) == PROMPTS
    for (text, usage, reason), (pieces, streamed_usage, streamed_reason) in answers:
        assert "".join(pieces) == text
        assert (streamed_usage, streamed_reason) == (usage, reason)
        assert not any("\ufffd" in piece for piece in pieces)
    assert any(any("\u4e00" <= letter <= "\u9fff" for letter in text) for (text, _, _), _ in answers)


async def test_usage_is_the_number_of_ids(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        for body in random_bodies(seed=2)[::50]:
            counted = (await client.post("/tokenize", json={"messages": body["messages"]})).json()
            reply = (
                await client.post("/v1/chat/completions", json={**body, "temperature": 0, "logprobs": True})
            ).json()
            (choice,), usage = reply["choices"], reply["usage"]
            assert usage["prompt_tokens"] == counted["count"] == len(counted["tokens"])
            assert usage["prompt_tokens_details"]["image_tokens"] == counted["image_tokens"]
            # Each token of the text is told with its logprob. What is drawn and says nothing: the end token, or
            # up to three tokens of a character that max_tokens cut.
            silent = usage["completion_tokens"] - len(choice["logprobs"]["content"])
            if choice["finish_reason"] == "stop":
                assert silent == 1
            else:
                assert usage["completion_tokens"] == body["max_tokens"]
                assert 0 <= silent <= 3
