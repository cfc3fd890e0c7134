"""Several answers to one question, likelihoods, plain completions, and OpenAI's newer Responses."""

import pytest

from tests.conformance.clients import OPENAIS, Result, for_clients, for_clients_except
from tests.conformance.task import ANSWER, FOLLOW_UP_ANSWER

pytestmark = pytest.mark.conformance

HAVE_RESPONSES = (*OPENAIS, "langchain", "litellm")


@for_clients_except("ai-sdk", "llama-index")
def test_two_choices_come_in_order_and_usage_counts_both(result: Result, client: str) -> None:
    answer = result(client, "several")
    assert answer["indexes"] == [0, 1]
    assert all(isinstance(text, str) for text in answer["texts"])
    assert answer["completion_tokens"] >= 2


@for_clients(*OPENAIS)
def test_two_streamed_choices_differ_in_their_index(result: Result, client: str) -> None:
    answer = result(client, "several_streamed")
    assert answer == {"indexes": [0, 1], "texts": [ANSWER, ANSWER]}  # at temperature 0


@for_clients_except("ai-sdk")
def test_logprobs_belong_to_the_bytes_of_the_answer(result: Result, client: str) -> None:
    answer = result(client, "logprobs")
    drawn = b"".join(bytes(token) for token in answer["bytes"] if token)
    assert drawn.decode() == answer["text"] == ANSWER
    assert all(logprob <= 0 for logprob in answer["logprobs"])
    for logprob, top in zip(answer["logprobs"], answer["tops"], strict=True):
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert logprob == pytest.approx(top[0], abs=1e-4)  # at temperature 0 the likeliest is drawn


@for_clients()
def test_a_text_is_completed_streaming_or_not(result: Result, client: str) -> None:
    answer = result(client, "completion")
    assert "".join(answer["pieces"]) == answer["text"]
    assert answer["finish"] in ("stop", "length")
    prompt, completion = answer["usage"]
    assert prompt > 0
    assert 0 <= completion <= 16


@for_clients(*OPENAIS)
def test_a_text_response_completes(result: Result, client: str) -> None:
    answer = result(client, "response_text")
    assert answer["text"]
    assert answer["status"] == "completed"


@for_clients(*HAVE_RESPONSES)
def test_a_response_about_a_picture_is_correct_and_has_usage(result: Result, client: str) -> None:
    answer = result(client, "response_picture")
    assert (answer["text"], answer["status"]) == (ANSWER, "completed")
    prompt, completion, total = answer["usage"]
    assert prompt > 200
    assert total == prompt + completion


@for_clients("ai-sdk")
def test_a_conversation_over_responses_goes_on(result: Result, client: str) -> None:
    """AI SDK's own provider for OpenAI refers to earlier answers by their ids, unless it is told not to."""
    assert result(client, "response_turns") == {kept: [ANSWER, FOLLOW_UP_ANSWER] for kept in ("stored", "sent")}


@for_clients("ai-sdk")
def test_reasoning_over_responses_is_read_from_its_summary(result: Result, client: str) -> None:
    answer = result(client, "response_reasoning")
    assert answer["reasoning"]
    assert answer["streamed"]
    assert answer["second"]


@for_clients("ai-sdk")
def test_a_tools_result_over_responses_is_answered(result: Result, client: str) -> None:
    assert result(client, "response_tool_result")["finish"] in ("stop", "length", "tool-calls")


@for_clients(*OPENAIS, "langchain")
def test_the_client_assembles_a_streamed_response(result: Result, client: str) -> None:
    answer = result(client, "response_streamed")
    assert len(answer["pieces"]) > 3
    assert "".join(answer["pieces"]) == answer["final"] == answer["whole"]
    assert ANSWER in answer["whole"]
