"""z.ai's own SDKs, which users of GLM have: pictures, conversations, streams, thinking, tools."""

import json

import jsonschema
import pytest

from tests.conformance.clients import ZAIS, Result, for_clients
from tests.conformance.task import ANSWER, FOLLOW_UP_ANSWER
from tests.conformance.test_tools import PARAMETERS, check_calls

pytestmark = pytest.mark.conformance


@for_clients(*ZAIS)
def test_a_picture_is_read_as_a_data_url_and_as_base64(result: Result, client: str) -> None:
    answer = result(client, "picture_answer")
    assert answer["data_url"] == answer["base64"] == {"text": ANSWER, "finish": "stop"}
    prompt, completion, total = answer["usage"]
    assert prompt > 200
    assert total == prompt + completion


@for_clients(*ZAIS)
def test_hints_to_the_platform_are_accepted(result: Result, client: str) -> None:
    assert result(client, "hints")["text"]


@for_clients(*ZAIS)
def test_the_sdks_own_message_can_be_sent_back(result: Result, client: str) -> None:
    assert result(client, "follow_up")["text"] == FOLLOW_UP_ANSWER


@for_clients(*ZAIS)
def test_a_stream_has_the_complete_answer(result: Result, client: str) -> None:
    answer = result(client, "stream")
    assert len(answer["pieces"]) > 3
    assert "".join(answer["pieces"]) == answer["whole"]
    assert ANSWER in answer["whole"]
    assert answer["finish"] == "length"


@for_clients(*ZAIS)
def test_reasoning_is_in_the_field_that_the_sdk_reads(result: Result, client: str) -> None:
    answer = result(client, "thinking")
    assert answer["whole"]["reasoning"]
    assert answer["streamed"] == answer["whole"]


@for_clients(*ZAIS)
def test_a_required_tool_is_called_with_valid_arguments(result: Result, client: str) -> None:
    answer = result(client, "tool_required")
    check_calls(answer["calls"])
    assert answer["finish"] == "tool_calls"


@for_clients(*ZAIS)
def test_a_streamed_call_has_its_name_once_and_its_arguments_in_pieces(result: Result, client: str) -> None:
    answer = result(client, "tool_streamed")
    (name,) = answer["names"]
    jsonschema.validate(json.loads(answer["arguments"]), PARAMETERS[name])
    assert answer["pieces"] > 1
    assert answer["finish"] == "tool_calls"


@for_clients(*ZAIS)
def test_a_tools_result_is_answered(result: Result, client: str) -> None:
    assert result(client, "tool_result")["finish"] in ("stop", "length", "tool_calls")


@for_clients(*ZAIS)
def test_a_broken_picture_raises_the_sdks_error_for_a_400_with_our_sentence(result: Result, client: str) -> None:
    refused = result(client, "broken_picture")
    assert refused["error"] == "APIRequestFailedError"
    assert refused["status"] == 400
    assert "the base64 of a picture" in refused["message"]
