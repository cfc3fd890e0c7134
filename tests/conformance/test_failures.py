"""What is refused, what is tried again and what is given up, as each client tells its user."""

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import started
from tests.conformance import gate as gates
from tests.conformance.clients import OPENAIS, Got, every, run
from tests.conformance.task import ANSWER, task

pytestmark = pytest.mark.conformance

# What a client calls a 400 and a 404; the AI SDK has one class for all.
BAD_REQUEST = {"openai-node": "BadRequestError", "ai-sdk": "APICallError"}
NOT_FOUND = {"openai-node": "NotFoundError", "ai-sdk": "APICallError"}
TIMEOUT = {"openai-node": "APIConnectionTimeoutError", "ai-sdk": "TimeoutError", "litellm": "Timeout"}


@every()
def test_an_unknown_model_is_the_clients_not_found(got: Got, client: str) -> None:
    refused = got(client, "wrong_model")
    assert NOT_FOUND.get(client, "NotFoundError") in (refused["error"], *refused["parents"])
    assert refused["status"] == 404
    assert "gpt-9" in refused["message"]


@pytest.mark.parametrize("way", ["broken_picture", "broken_picture_streamed"])
@every()
def test_a_broken_picture_is_the_clients_bad_request_with_our_sentence(got: Got, client: str, way: str) -> None:
    refused = got(client, way)
    assert BAD_REQUEST.get(client, "BadRequestError") in (refused["error"], *refused["parents"])
    assert refused["status"] == 400
    assert "JPEG" in refused["message"]  # it says what a picture may be


@every(*OPENAIS)
def test_our_error_code_reaches_the_caller(got: Got, client: str) -> None:
    assert got(client, "broken_picture")["code"] == "invalid_image"
    assert got(client, "wrong_model")["code"] == "model_not_found"


@every()
def test_a_body_over_the_limit_is_told_as_413_and_not_as_a_broken_connection(got: Got, client: str) -> None:
    refused = got(client, "too_large")
    assert refused["status"] == 413
    assert "64 MiB" in refused["message"]


@every("langchain")
def test_a_document_is_refused_by_the_name_of_its_part(got: Got, client: str) -> None:
    refused = got(client, "unsupported_file")
    assert "BadRequestError" in refused["parents"]
    assert refused["status"] == 400
    assert "file" in refused["message"]


@pytest.mark.parametrize(("fault", "status"), [("rate_limited", 429), ("unavailable", 503)])
@every()
def test_a_request_refused_for_now_is_sent_again_when_retry_after_says(
    got: Got, gate: gates.Gate, client: str, fault: str, status: int
) -> None:
    assert got(client, fault)["text"] == ANSWER
    first, second = gate.passed[fault, client]
    assert (first.status, second.status) == (status, 200)
    assert second.at_s - first.at_s > 0.9 * gates.RETRY_AFTER_S


@every()
def test_a_client_that_has_given_up_says_so(got: Got, client: str) -> None:
    refused = got(client, "timed_out")
    assert TIMEOUT.get(client, "APITimeoutError") in (refused["error"], *refused["parents"])


@pytest.fixture(scope="module")
def full_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gates.Gate]:
    """A gate in front of a service with one slot and no queue."""
    folder = tmp_path_factory.mktemp("one-slot")
    with (
        started(folder, "--slots", "1", GLM_ENGINE__MAX_WAITING="0") as service,
        gates.opened(service.base_url) as gate,
    ):
        yield gate


@every("openai-3", "openai-node", "ai-sdk")
def test_a_request_to_the_full_service_is_sent_again_and_answered(
    full_gate: gates.Gate, tmp_path_factory: pytest.TempPathFactory, client: str
) -> None:
    asked = task(client, full_gate.service_url, full_gate.url, only=("overloaded",))
    answer = run(client, asked, tmp_path_factory.mktemp(client))["overloaded"]
    assert answer == {"text": ANSWER}
    first, *later = full_gate.passed["overloaded", client]
    assert first.status == 503
    assert later[-1].status == 200
    assert later[0].at_s - first.at_s > 0.9 * gates.RETRY_AFTER_S
