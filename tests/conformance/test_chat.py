"""Chat as people use it: questions about pictures, conversations, streams; from every client."""

import pytest

from tests.conformance.clients import OPENAIS, Got, all_but, every
from tests.conformance.task import ANSWER, FOLLOW_UP_ANSWER, MODEL, WHICH_ANSWERS

pytestmark = pytest.mark.conformance

LONG_TOKENS = 64  # what the long question's answer is cut at


@every(*OPENAIS)
def test_the_model_is_listed_and_found_by_its_name(got: Got, client: str) -> None:
    assert got(client, "models") == {"ids": [MODEL], "one": MODEL}


@every()
def test_a_question_about_a_picture_is_answered_rightly_with_usage_and_no_reasoning(got: Got, client: str) -> None:
    answer = got(client, "picture_answer")
    assert (answer["text"], answer["finish"]) == (ANSWER, "stop")
    assert not any(answer["reasoning"])
    prompt, completion, total = answer["usage"]
    assert prompt > 200  # the picture's tokens
    assert 1 < completion < 64
    assert total == prompt + completion


@every(*OPENAIS)
def test_a_reply_has_a_request_id(got: Got, client: str) -> None:
    assert got(client, "picture_answer")["request_id"]


@every()
def test_each_of_two_pictures_in_a_message_is_read(got: Got, client: str) -> None:
    assert got(client, "two_pictures") == WHICH_ANSWERS


@every(*OPENAIS)
def test_low_detail_costs_less_and_the_other_levels_the_same(got: Got, client: str) -> None:
    tokens = got(client, "detail")
    assert tokens["low"] < tokens["auto"]
    assert tokens["auto"] == tokens["high"] == tokens["original"]


@every()
def test_a_later_turn_is_about_the_picture_of_an_earlier_one(got: Got, client: str) -> None:
    """The client's own message object of the first answer is sent back with it."""
    assert got(client, "follow_up")["text"] == FOLLOW_UP_ANSWER


@every()
def test_a_stream_has_the_whole_answer_its_usage_and_its_end(got: Got, client: str) -> None:
    answer = got(client, "stream")
    assert len(answer["pieces"]) > 3
    assert "".join(answer["pieces"]) == answer["whole"]
    assert ANSWER in answer["whole"]
    assert answer["usage"] == answer["whole_usage"]
    assert answer["usage"][1] == LONG_TOKENS
    assert answer["finish"] == "length"


@all_but("ai-sdk", "llama-index", "litellm")
def test_four_questions_at_once_get_four_answers(got: Got, client: str) -> None:
    assert got(client, "at_once")["texts"] == [ANSWER] * 4
