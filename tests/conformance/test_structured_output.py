"""Structured output: each client's own parser gets what its schema says, whole and streamed."""

from typing import Any

import jsonschema
import pytest

from tests.conformance.clients import OPENAIS, Got, all_but, every
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


@every()
def test_an_answer_held_to_a_schema_is_what_the_clients_parser_wants(got: Got, client: str) -> None:
    answer = got(client, "schema")
    check_finding(answer["parsed"])
    assert answer.get("finish", "stop") == "stop"


@all_but("llama-index", "litellm")
def test_a_streamed_answer_held_to_a_schema_is_put_together(got: Got, client: str) -> None:
    answer = got(client, "schema_streamed")
    check_finding(answer["parsed"])
    assert len(answer["pieces"]) > 3


@every("langchain", "llama-index")
def test_a_schema_asked_for_as_a_tool_call_is_kept_to(got: Got, client: str) -> None:
    check_finding(got(client, "schema_by_a_call")["parsed"])


@all_but("llama-index")
def test_json_mode_gives_the_object_that_the_model_would_write_anyway(got: Got, client: str) -> None:
    """The demo model was trained to answer this question in JSON, with a blank after each colon and comma."""
    answer = got(client, "json_object")
    assert answer["parsed"]["number"] == ANSWER
    assert answer.get("finish", "stop") == "stop"


@every(*OPENAIS)
def test_responses_are_held_to_a_schema(got: Got, client: str) -> None:
    check_finding(got(client, "response_schema")["parsed"])
