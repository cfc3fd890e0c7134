"""Anthropic's own client at /v1/messages."""

import pytest

from tests.conformance.clients import Result
from tests.conformance.task import ANSWER, FOLLOW_UP_ANSWER

pytestmark = pytest.mark.conformance

CLIENT = "anthropic"


def test_a_question_about_a_picture_is_answered_correctly_with_usage(result: Result) -> None:
    answer = result(CLIENT, "message")
    assert (answer["text"], answer["kinds"], answer["stop"]) == (ANSWER, ["text"], "end_turn")
    prompt, completion = answer["usage"]
    assert prompt > 200  # the picture's tokens
    assert 1 < completion < 64
    assert answer["id"].startswith("msg_")


def test_the_client_assembles_a_streamed_message(result: Result) -> None:
    answer = result(CLIENT, "streamed")
    assert len(answer["pieces"]) > 3
    assert "".join(answer["pieces"]) == answer["final"] == answer["whole"]
    assert ANSWER in answer["whole"]
    assert answer["stop"] == "max_tokens"
    assert answer["usage"] == answer["whole_usage"]


def test_a_later_turn_is_about_the_picture_of_an_earlier_one(result: Result) -> None:
    assert result(CLIENT, "follow_up")["text"] == FOLLOW_UP_ANSWER


def test_a_tool_is_called_streaming_or_not_and_its_result_is_accepted(result: Result) -> None:
    answer = result(CLIENT, "tool")
    assert answer["name"] in ("look_up", "hand_over")
    assert answer["input"] == answer["streamed_input"] != {}
    assert answer["stop"] == "tool_use"
    assert answer["final_kinds"]


def test_a_stop_sequence_ends_the_answer_and_is_named(result: Result) -> None:
    answer = result(CLIENT, "stop_sequence")
    assert (answer["stop"], answer["sequence"]) == ("stop_sequence", answer["whole"][2:4])
    assert answer["text"] == answer["whole"][:2]


def test_counted_tokens_are_those_of_the_usage(result: Result) -> None:
    answer = result(CLIENT, "tokens")
    assert answer["counted"] == answer["used"]


def test_a_refusal_is_the_clients_own_error_with_our_sentence(result: Result) -> None:
    broken = result(CLIENT, "broken_picture")
    assert (broken["error"], broken["status"]) == ("BadRequestError", 400)
    assert "Picture 1" in broken["message"]
    unknown = result(CLIENT, "unknown_model")
    assert (unknown["error"], unknown["status"]) == ("NotFoundError", 404)
