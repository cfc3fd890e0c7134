"""Tools: a forced call has the form that clients' own parsers want; its result can be sent back.

The demo model was trained on other tools: what it calls and with what is checked for its form, not for its sense.
"""

from typing import Any

import jsonschema
import pytest

from tests.conformance.clients import OPENAIS, Got, all_but, every
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


@every()
def test_a_required_tool_is_called_with_arguments_that_fit(got: Got, client: str) -> None:
    answer = got(client, "tool_required")
    check_calls(answer["calls"])
    assert len(answer["calls"]) == 1 or client == "ai-sdk"  # which can't forbid a second call
    assert answer["finish"] in CALLED


@every()
def test_the_named_tool_is_called(got: Got, client: str) -> None:
    answer = got(client, "tool_named")
    check_calls(answer["calls"])
    assert {call["name"] for call in answer["calls"]} == {TOOLS[1]["name"]}
    assert answer["finish"] in (*CALLED, "stop")  # OpenAI says "stop" after a named call


@every()
def test_no_tool_is_called_where_none_may_be(got: Got, client: str) -> None:
    answer = got(client, "tool_forbidden")
    assert answer["calls"] == []
    assert answer["text"]


@every()
def test_a_streamed_call_is_put_together_by_the_client(got: Got, client: str) -> None:
    answer = got(client, "tool_streamed")
    check_calls(answer["calls"])
    assert len(answer["pieces"]) > len(answer["calls"])  # arguments come while they are drawn
    assert answer["finish"] in CALLED


@every()
def test_a_tools_result_is_taken_and_answered(got: Got, client: str) -> None:
    assert got(client, "tool_result")["finish"] in ("stop", "length", *CALLED)


@all_but("llama-index")  # it leaves pictures out of results
def test_a_picture_in_a_tools_result_is_seen(got: Got, client: str) -> None:
    answer = got(client, "tool_result_with_picture")
    assert answer["finish"] in ("stop", "length", *CALLED)
    assert answer["prompt_tokens"] > got(client, "tool_result")["prompt_tokens"] + PICTURE_TOKENS


@every(*OPENAIS)
def test_responses_call_tools_and_take_their_results(got: Got, client: str) -> None:
    answer = got(client, "response_tool")
    check_calls(answer["calls"])
    assert isinstance(answer["text"], str)
