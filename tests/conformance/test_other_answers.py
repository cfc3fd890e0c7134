"""Several answers to one question, likelihoods, plain completions, and OpenAI's newer Responses."""

import pytest

from tests.conformance.clients import OPENAIS, Got, all_but, every
from tests.conformance.task import ANSWER

pytestmark = pytest.mark.conformance

HAVE_RESPONSES = (*OPENAIS, "langchain", "litellm")


@all_but("ai-sdk", "llama-index")
def test_two_answers_come_in_order_and_are_both_counted(got: Got, client: str) -> None:
    answer = got(client, "several")
    assert answer["indexes"] == [0, 1]
    assert all(isinstance(text, str) for text in answer["texts"])
    assert answer["completion_tokens"] >= 2


@every(*OPENAIS)
def test_two_streamed_answers_are_told_apart_by_their_index(got: Got, client: str) -> None:
    answer = got(client, "several_streamed")
    assert answer == {"indexes": [0, 1], "texts": [ANSWER, ANSWER]}  # at temperature 0


@all_but("ai-sdk")
def test_logprobs_belong_to_the_bytes_of_the_answer(got: Got, client: str) -> None:
    answer = got(client, "logprobs")
    drawn = b"".join(bytes(token) for token in answer["bytes"] if token)
    assert drawn.decode() == answer["text"] == ANSWER
    assert all(logprob <= 0 for logprob in answer["logprobs"])
    for logprob, top in zip(answer["logprobs"], answer["tops"], strict=True):
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert logprob == pytest.approx(top[0], abs=1e-4)  # at temperature 0 the likeliest is drawn


@every()
def test_a_text_is_gone_on_with_whole_and_streamed(got: Got, client: str) -> None:
    answer = got(client, "completion")
    assert "".join(answer["pieces"]) == answer["text"]
    assert answer["finish"] in ("stop", "length")
    prompt, completion = answer["usage"]
    assert prompt > 0
    assert 0 <= completion <= 16


@every(*OPENAIS)
def test_a_text_response_completes(got: Got, client: str) -> None:
    answer = got(client, "response_text")
    assert answer["text"]
    assert answer["status"] == "completed"


@every(*HAVE_RESPONSES)
def test_a_response_about_a_picture_is_right_and_counted(got: Got, client: str) -> None:
    answer = got(client, "response_picture")
    assert (answer["text"], answer["status"]) == (ANSWER, "completed")
    prompt, completion, total = answer["usage"]
    assert prompt > 200
    assert total == prompt + completion


@every(*OPENAIS, "langchain")
def test_a_streamed_response_is_put_together_by_the_client(got: Got, client: str) -> None:
    answer = got(client, "response_streamed")
    assert len(answer["pieces"]) > 3
    assert "".join(answer["pieces"]) == answer["final"] == answer["whole"]
    assert ANSWER in answer["whole"]
