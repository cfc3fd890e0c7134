"""Answers through the service: batched as alone, and as `generate()`; the picture decides the answer."""

import asyncio
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from transformers import Glm4vForConditionalGeneration

from benchmarks.peers.processor import load_processor
from serve_app.settings import DEMO_MODEL
from tests.cluster.chat import chat
from tests.cluster.questions import EVALUATION, chat_body, questions

pytestmark = pytest.mark.cluster

TOGETHER = 32


async def together_and_alone(base_url: str, bodies: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Text and usage of each answer, asked at the same time and one after the other."""
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        together = await asyncio.gather(*(chat(client, body) for body in bodies))
        alone = [await chat(client, body) for body in bodies]
    return [(reply.text, reply.usage) for reply in together], [(reply.text, reply.usage) for reply in alone]


def generate(bodies: list[dict[str, Any]], asked: list[dict[str, Any]]) -> list[str]:
    processor = load_processor(DEMO_MODEL)
    model = Glm4vForConditionalGeneration.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    answers = []
    for body, question in zip(bodies, asked, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": question["question"]}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        picture = Image.open(EVALUATION / question["picture"]).convert("RGB")
        inputs = processor(images=[picture], text=[text], return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=body["max_tokens"], do_sample=False)
        answers.append(processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


async def test_32_at_once_get_the_answers_they_get_alone_and_those_of_generate(base_url: str) -> None:
    asked = questions(per_job=11)[:TOGETHER]
    bodies = [chat_body(question, max_tokens=4 + 3 * (index % 15)) for index, question in enumerate(asked)]
    together, alone = await together_and_alone(base_url, bodies)
    assert together == alone
    assert [text for text, _ in together] == generate(bodies, asked)


async def test_seeded_answers_are_the_same_alone_and_batched(base_url: str) -> None:
    bodies = [
        chat_body(question, temperature=1.2, top_p=0.95, seed=index, max_tokens=16)
        for index, question in enumerate(questions(per_job=6)[:16])
    ]
    together, alone = await together_and_alone(base_url, bodies)
    assert together == alone


async def test_the_answer_changes_with_the_picture(base_url: str) -> None:
    labels = [question for question in questions(per_job=8) if question["job"] == "labels"]
    bodies = [chat_body({**question, "question": "运单号是多少？"}) for question in labels]
    together, _ = await together_and_alone(base_url, bodies)
    assert len({text for text, _ in together}) == len(labels)


async def test_usage_counts_the_ids_of_text_and_picture(base_url: str) -> None:
    (question,) = questions(per_job=1)[:1]
    processor = load_processor(DEMO_MODEL)
    content = [{"type": "image"}, {"type": "text", "text": question["question"]}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    picture = Image.open(EVALUATION / question["picture"]).convert("RGB")
    ids = processor(images=[picture], text=[text], return_tensors="pt")["input_ids"][0]
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        usage = (await chat(client, chat_body(question))).usage
    assert usage["prompt_tokens"] == len(ids)
    assert usage["prompt_tokens_details"]["image_tokens"] == int((ids == processor.image_token_id).sum())
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
