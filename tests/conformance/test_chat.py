"""Chat completions from every client: questions about pictures, conversations, streams."""

import pytest

from tests.conformance.clients import OPENAIS, Result, for_clients, for_clients_except
from tests.conformance.task import ANSWER, FOLLOW_UP_ANSWER, MODEL, WHICH_ANSWERS

pytestmark = pytest.mark.conformance

LONG_TOKENS = 64  # what the long question's answer is cut at


@for_clients(*OPENAIS)
def test_the_model_is_listed_and_found_by_its_name(result: Result, client: str) -> None:
    assert result(client, "models") == {"ids": [MODEL], "one": MODEL}


@for_clients()
def test_a_question_about_a_picture_is_answered_correctly_with_usage_and_no_reasoning(
    result: Result, client: str
) -> None:
    answer = result(client, "picture_answer")
    assert (answer["text"], answer["finish"]) == (ANSWER, "stop")
    assert not any(answer["reasoning"])
    prompt, completion, total = answer["usage"]
    assert prompt > 200  # the picture's tokens
    assert 1 < completion < 64
    assert total == prompt + completion


@for_clients(*OPENAIS)
def test_a_reply_has_a_request_id(result: Result, client: str) -> None:
    assert result(client, "picture_answer")["request_id"]


@for_clients("openai-2", "openai-3")
def test_a_conversation_may_be_one_message_of_any_role(result: Result, client: str) -> None:
    roles = result(client, "minimal")
    assert roles == dict.fromkeys(("developer", "system", "user", "assistant"), "assistant")


@for_clients()
def test_each_of_two_pictures_in_a_message_is_read(result: Result, client: str) -> None:
    assert result(client, "two_pictures") == WHICH_ANSWERS


@for_clients(*OPENAIS)
def test_low_detail_costs_less_and_the_other_levels_the_same(result: Result, client: str) -> None:
    tokens = result(client, "detail")
    assert tokens["low"] < tokens["auto"]
    assert tokens["auto"] == tokens["high"] == tokens["original"]


@for_clients()
def test_a_later_turn_is_about_the_picture_of_an_earlier_one(result: Result, client: str) -> None:
    """The client's own message object of the first answer is sent back with it."""
    assert result(client, "follow_up")["text"] == FOLLOW_UP_ANSWER


@for_clients()
def test_a_stream_has_the_complete_answer_its_usage_and_its_finish_reason(result: Result, client: str) -> None:
    answer = result(client, "stream")
    assert len(answer["pieces"]) > 3
    assert "".join(answer["pieces"]) == answer["whole"]
    assert ANSWER in answer["whole"]
    assert answer["usage"] == answer["whole_usage"]
    assert answer["usage"][1] == LONG_TOKENS
    assert answer["finish"] == "length"


@for_clients_except("ai-sdk", "llama-index", "litellm")
def test_four_questions_at_once_get_four_answers(result: Result, client: str) -> None:
    assert result(client, "at_once")["texts"] == [ANSWER] * 4
