"""Structured output through the service at temperature 1: every answer parses and is valid."""

import asyncio
import json
from typing import Any

import httpx
import jsonschema
import pytest

from tests.cluster.chat import Reply, chat
from tests.cluster.questions import chat_body, questions

pytestmark = pytest.mark.cluster

ANSWERS = 200  # half of them streamed
AT_ONCE = 16
LABEL = {
    "type": "object",
    "properties": {
        "waybill": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{12}$"},
        "recipient": {"type": "string", "maxLength": 12},
        "weight_kg": {"type": "number", "minimum": 0, "maximum": 100},
        "fragile": {"type": "boolean"},
    },
    "required": ["waybill", "recipient", "weight_kg", "fragile"],
    "additionalProperties": False,
}
BOARD = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["合格", "不合格", "复检"]},
        "defects": {
            "type": "array",
            "maxItems": 3,
            "items": {"$ref": "#/$defs/defect"},
        },
    },
    "required": ["verdict", "defects"],
    "additionalProperties": False,
    "$defs": {
        "defect": {
            "type": "object",
            "properties": {
                "part": {"type": "string", "pattern": "^[A-Z][0-9]{1,3}$"},
                "kind": {"enum": ["missing", "shifted", "short"]},
                "box": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000},
                        "minItems": 4, "maxItems": 4},
            },
            "required": ["part", "kind", "box"],
            "additionalProperties": False,
        }
    },
}  # fmt: skip
PAPER = {
    "type": "object",
    "properties": {
        "title": {"anyOf": [{"type": "string", "maxLength": 10}, {"type": "null"}]},
        "total": {"type": "integer", "minimum": 0, "maximum": 99999},
        "lines": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 2},
    },
    "required": ["title", "total", "lines"],
    "additionalProperties": False,
}
SCHEMAS = {"labels": LABEL, "boards": BOARD, "documents": PAPER}


def bodies() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    asked = questions(per_job=10)
    made = []
    for number in range(ANSWERS):
        question = asked[number % len(asked)]
        schema = SCHEMAS[question["job"]]
        form = {"type": "json_schema", "json_schema": {"name": question["job"], "schema": schema, "strict": True}}
        made.append((chat_body(question, temperature=1, seed=number, max_tokens=400, response_format=form), schema))
    return made


async def test_200_of_200_answers_are_valid_against_their_schema_streaming_or_not(base_url: str) -> None:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def answer(client: httpx.AsyncClient, number: int, body: dict[str, Any]) -> Reply:
        async with at_once:
            return await chat(client, {**body, "stream": number % 2 == 1})

    asked = bodies()
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        replies = await asyncio.gather(*(answer(client, number, body) for number, (body, _) in enumerate(asked)))
    for reply, (_, schema) in zip(replies, asked, strict=True):
        jsonschema.validate(json.loads(reply.text), schema)
    # Answers that the model would not have ended within its tokens were completed.
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert len({reply.text for reply in replies}) > ANSWERS // 3  # temperature 1 does sample


async def test_a_pattern_does_not_change_an_answer_that_matches_it(base_url: str) -> None:
    """The demo model reads the number although it never saw JSON in training."""
    labels = [question for question in questions(per_job=40) if question["kind"] == "tracking"]
    assert labels
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        for question in labels[:4]:
            pattern = chat_body(question, structured_outputs={"regex": "[A-Z]{2}[0-9]{6,14}"})
            assert (await chat(client, pattern)).text == question["answer"]


async def test_a_choice_is_one_of_its_options(base_url: str) -> None:
    options = ["合格", "不合格", "复检"]
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        for number, question in enumerate(questions(per_job=3)):
            body = chat_body(question, temperature=1.5, seed=number, structured_outputs={"choice": options})
            assert (await chat(client, body)).text in options


async def test_a_required_tool_is_called_with_valid_arguments(base_url: str) -> None:
    parameters = {
        "type": "object",
        "properties": {
            "waybill": {"type": "string", "maxLength": 20},
            "urgent": {"type": "boolean"},
            "floor": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["waybill", "urgent", "floor"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "track", "description": "查询物流", "parameters": parameters}}
    async with httpx.AsyncClient(base_url=base_url, timeout=300) as client:
        for number, question in enumerate(questions(per_job=4)):
            body = chat_body(question, temperature=1, seed=number, max_tokens=200, tools=[tool], tool_choice="required")
            reply = await chat(client, body)
            assert reply.finish_reason == "tool_calls"
            for call in reply.message["tool_calls"]:
                assert call["function"]["name"] == "track"
                jsonschema.validate(json.loads(call["function"]["arguments"]), parameters)
