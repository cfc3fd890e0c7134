"""Structured output: each client's own parser gets what its schema says, streaming or not."""

from typing import Any

import jsonschema
import pytest

from tests.conformance.clients import OPENAIS, Result, for_clients, for_clients_except
from tests.conformance.task import ANSWER

pytestmark = pytest.mark.conformance

FINDING = {  # the class or zod schema of every script
    "type": "object",
    "properties": {
        "verdict": {"enum": ["pass", "fail"]},
        "number": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{6}$"},
        "stamped": {"type": "boolean"},
    },
    "required": ["verdict", "number", "stamped"],
    "additionalProperties": False,
}


def check_finding(parsed: Any) -> None:
    jsonschema.validate(parsed, FINDING)


@for_clients()
def test_the_clients_parser_accepts_an_answer_with_a_schema(result: Result, client: str) -> None:
    answer = result(client, "schema")
    check_finding(answer["parsed"])
    assert answer.get("finish", "stop") == "stop"


@for_clients_except("llama-index", "litellm")
def test_the_client_assembles_a_streamed_answer_with_a_schema(result: Result, client: str) -> None:
    answer = result(client, "schema_streamed")
    check_finding(answer["parsed"])
    assert len(answer["pieces"]) > 3


@for_clients("langchain", "llama-index")
def test_a_schema_sent_as_a_tool_is_followed(result: Result, client: str) -> None:
    check_finding(result(client, "schema_by_a_call")["parsed"])


@for_clients_except("llama-index")
def test_json_mode_gives_the_object_that_the_model_writes_without_it(result: Result, client: str) -> None:
    """The demo model was trained to answer this question in JSON, with a blank after each colon and comma."""
    answer = result(client, "json_object")
    assert answer["parsed"]["number"] == ANSWER
    assert answer.get("finish", "stop") == "stop"


@for_clients(*OPENAIS)
def test_responses_follow_a_schema(result: Result, client: str) -> None:
    check_finding(result(client, "response_schema")["parsed"])
