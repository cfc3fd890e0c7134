"""Tools: a forced call has the form that clients' own parsers need; its result can be sent back.

The demo model was trained on other tools: the form of its calls is checked, not their sense.
"""

from typing import Any

import jsonschema
import pytest

from tests.conformance.clients import OPENAIS, Result, for_clients, for_clients_except
from tests.conformance.task import TOOLS

pytestmark = pytest.mark.conformance

PARAMETERS = {tool["name"]: tool["parameters"] for tool in TOOLS}
PICTURE_TOKENS = 200  # at least, of the picture in a result
CALLED = ("tool_calls", "tool-calls")  # the AI SDK's word is the second


def check_calls(calls: list[dict[str, Any]]) -> None:
    assert calls
    assert len({call["id"] for call in calls}) == len(calls)
    for call in calls:
        assert call["id"]
        jsonschema.validate(call["arguments"], PARAMETERS[call["name"]])


@for_clients()
def test_a_required_tool_is_called_with_valid_arguments(result: Result, client: str) -> None:
    answer = result(client, "tool_required")
    check_calls(answer["calls"])
    assert len(answer["calls"]) == 1 or client == "ai-sdk"  # which can't forbid a second call
    assert answer["finish"] in CALLED


@for_clients()
def test_the_named_tool_is_called(result: Result, client: str) -> None:
    answer = result(client, "tool_named")
    check_calls(answer["calls"])
    assert {call["name"] for call in answer["calls"]} == {TOOLS[1]["name"]}
    assert answer["finish"] in (*CALLED, "stop")  # OpenAI says "stop" after a named call


@for_clients()
def test_no_tool_is_called_with_tool_choice_none(result: Result, client: str) -> None:
    answer = result(client, "tool_forbidden")
    assert answer["calls"] == []
    assert answer["text"]


@for_clients()
def test_the_client_assembles_a_streamed_call(result: Result, client: str) -> None:
    answer = result(client, "tool_streamed")
    check_calls(answer["calls"])
    assert len(answer["pieces"]) > len(answer["calls"])  # arguments come while they are drawn
    assert answer["finish"] in CALLED


@for_clients()
def test_a_tools_result_is_answered(result: Result, client: str) -> None:
    assert result(client, "tool_result")["finish"] in ("stop", "length", *CALLED)


@for_clients_except("llama-index")  # it leaves pictures out of results
def test_a_picture_in_a_tools_result_is_seen(result: Result, client: str) -> None:
    answer = result(client, "tool_result_with_picture")
    assert answer["finish"] in ("stop", "length", *CALLED)
    assert answer["prompt_tokens"] > result(client, "tool_result")["prompt_tokens"] + PICTURE_TOKENS


@for_clients(*OPENAIS)
def test_responses_call_tools_and_answer_their_results(result: Result, client: str) -> None:
    answer = result(client, "response_tool")
    check_calls(answer["calls"])
    assert isinstance(answer["text"], str)
