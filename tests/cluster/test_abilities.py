"""Thinking, tool calls by the model's own decision, and pointing, with the demo model through the service."""

import json
from typing import Any

import httpx
import pytest

from benchmarks.abilities import body, is_right, questions
from tests.cluster.chat import chat

pytestmark = pytest.mark.cluster

EACH = 10  # of the fifty questions of an ability


def first(ability: str) -> list[dict[str, Any]]:
    return [question for question in questions(ability) if question["ability"] == ability][:EACH]


async def test_reasoning_is_apart_from_the_answer_streaming_or_not(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        for question in first("thinking"):
            asked = body(question, "glm-vision-demo")
            reply = await chat(client, asked)
            assert reply.message["reasoning"] == reply.message["reasoning_content"] != ""
            assert "think>" not in reply.message["reasoning"] + reply.text
            assert reply.usage["completion_tokens_details"]["reasoning_tokens"] > 0
            stream = await chat(client, {**asked, "stream": True})
            assert stream.text == reply.text
            assert stream.usage == reply.usage


async def test_a_budget_ends_the_reasoning_and_the_answer_still_comes(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        for question in first("thinking")[:4]:
            asked = body(question, "glm-vision-demo")
            asked["chat_template_kwargs"] = {"enable_thinking": True}
            short = await chat(client, {**asked, "thinking_token_budget": 3})
            assert short.text
            assert short.usage["completion_tokens_details"]["reasoning_tokens"] <= 6


async def test_without_enable_thinking_there_is_no_reasoning(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        asked = body(first("thinking")[0], "glm-vision-demo")
        asked.pop("chat_template_kwargs")
        plain = await chat(client, asked)
    assert plain.message["reasoning_content"] is None
    assert plain.usage["completion_tokens_details"]["reasoning_tokens"] == 0


async def test_the_model_calls_a_tool_where_it_is_asked_to_and_only_there(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        right = []
        for question in first("tools"):
            reply = await chat(client, body(question, "glm-vision-demo"))
            assert (reply.finish_reason == "tool_calls") == bool(reply.message.get("tool_calls"))
            for call in reply.message.get("tool_calls", []):
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
            right.append(is_right(question, reply.message))
    assert sum(right) >= EACH * 0.7


async def test_boxes_come_in_thousandths_and_in_the_pictures_own_pixels(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        boxes = []
        for question in first("pointing"):
            asked = body(question, "glm-vision-demo")
            reply = (await client.post("/v1/chat/completions", json=asked)).raise_for_status().json()
            width, height = reply["images"][0]["original_size"]
            said = reply["choices"][0]["message"]
            assert "begin_of_box" not in said["content"]
            for box in [box for boxed in said.get("boxes", []) for box in boxed["boxes"]]:
                left, top, right, bottom = box["box_1000"]
                assert box["box_pixels"] == pytest.approx(
                    [left * width / 1000, top * height / 1000, right * width / 1000, bottom * height / 1000], abs=1
                )
                boxes.append(box)
    assert len(boxes) >= EACH * 0.7
