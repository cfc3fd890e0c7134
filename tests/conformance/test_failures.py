"""What is refused, what is sent again and what is given up, as each client reports it to its user."""

import pytest

from tests.conformance import fault_proxy as faults
from tests.conformance.clients import OPENAIS, Result, for_clients
from tests.conformance.task import ANSWER

pytestmark = pytest.mark.conformance

# What a client calls a 400 and a 404; the AI SDK has one class for all.
BAD_REQUEST = {"openai-node": "BadRequestError", "ai-sdk": "APICallError"}
NOT_FOUND = {"openai-node": "NotFoundError", "ai-sdk": "APICallError"}
TIMEOUT = {"openai-node": "APIConnectionTimeoutError", "ai-sdk": "TimeoutError", "litellm": "Timeout"}


@for_clients()
def test_an_unknown_model_raises_the_clients_not_found_error(result: Result, client: str) -> None:
    refused = result(client, "wrong_model")
    assert NOT_FOUND.get(client, "NotFoundError") in (refused["error"], *refused["parents"])
    assert refused["status"] == 404
    assert "gpt-9" in refused["message"]


@pytest.mark.parametrize("way", ["broken_picture", "broken_picture_streamed"])
@for_clients()
def test_a_broken_picture_raises_the_clients_bad_request_with_our_sentence(
    result: Result, client: str, way: str
) -> None:
    refused = result(client, way)
    assert BAD_REQUEST.get(client, "BadRequestError") in (refused["error"], *refused["parents"])
    assert refused["status"] == 400
    assert "JPEG" in refused["message"]  # it says what a picture may be


@for_clients("langchain", "litellm")
def test_a_prompt_that_is_too_long_makes_the_client_ask_another_model(result: Result, client: str) -> None:
    """They know it by OpenAI's sentence and code."""
    names = {"langchain": "OpenAIContextOverflowError", "litellm": "ContextWindowExceededError"}
    assert result(client, "context_fallback") == {"error": names[client], "text": "from the other one"}


@for_clients(*OPENAIS)
def test_our_error_code_reaches_the_caller(result: Result, client: str) -> None:
    assert result(client, "broken_picture")["code"] == "invalid_image"
    assert result(client, "wrong_model")["code"] == "model_not_found"


@for_clients()
def test_a_body_over_the_limit_gets_413_and_not_a_broken_connection(result: Result, client: str) -> None:
    refused = result(client, "too_large")
    assert refused["status"] == 413
    assert "64 MiB" in refused["message"]


@for_clients("langchain")
def test_a_document_is_refused_with_the_name_of_its_part(result: Result, client: str) -> None:
    refused = result(client, "unsupported_file")
    assert "BadRequestError" in refused["parents"]
    assert refused["status"] == 400
    assert "file" in refused["message"]


@pytest.mark.parametrize(("fault", "status"), [("rate_limited", 429), ("unavailable", 503)])
@for_clients()
def test_a_refused_request_is_sent_again_after_retry_after(
    result: Result, fault_proxy: faults.FaultProxy, client: str, fault: str, status: int
) -> None:
    assert result(client, fault)["text"] == ANSWER
    first, second = fault_proxy.exchanges[fault, client]
    assert (first.status, second.status) == (status, 200)
    assert second.at_s - first.at_s > 0.9 * faults.RETRY_AFTER_S


@for_clients()
def test_a_timeout_raises_the_clients_timeout_error(result: Result, client: str) -> None:
    refused = result(client, "timed_out")
    assert TIMEOUT.get(client, "APITimeoutError") in (refused["error"], *refused["parents"])
