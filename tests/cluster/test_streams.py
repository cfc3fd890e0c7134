"""500 random prompts through the service: streams equal messages, and usage is the number of token ids."""

import asyncio
import random
from typing import Any

import httpx
import pytest

from tests.cluster.chat import Reply, chat
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


async def test_500_random_streams_equal_the_messages_without_streaming(base_url: str) -> None:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def both(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[Reply, Reply]:
        async with at_once:
            return await chat(client, body), await chat(client, {**body, "stream": True})

    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        replies = await asyncio.gather(*(both(client, body) for body in random_bodies(seed=1)))
    assert len(replies) == PROMPTS
    for message, stream in replies:
        assert stream.text == message.text
        assert (stream.usage, stream.finish_reason) == (message.usage, message.finish_reason)
        assert not any("\ufffd" in piece for piece in stream.pieces)
    assert any("\u4e00" <= letter <= "\u9fff" for message, _ in replies for letter in message.text)


async def test_usage_is_the_number_of_token_ids(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        for body in random_bodies(seed=2)[::50]:
            counted = (await client.post("/tokenize", json={"messages": body["messages"]})).json()
            reply = (
                await client.post("/v1/chat/completions", json={**body, "temperature": 0, "logprobs": True})
            ).json()
            (choice,), usage = reply["choices"], reply["usage"]
            assert usage["prompt_tokens"] == counted["count"] == len(counted["tokens"])
            assert usage["prompt_tokens_details"]["image_tokens"] == counted["image_tokens"]
            # Each token of the text has its logprob. Tokens without text: the end token, or up to three tokens of a
            # character that max_tokens cut.
            without_text = usage["completion_tokens"] - len(choice["logprobs"]["content"])
            if choice["finish_reason"] == "stop":
                assert without_text == 1
            else:
                assert usage["completion_tokens"] == body["max_tokens"]
                assert 0 <= without_text <= 3
