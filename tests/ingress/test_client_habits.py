"""Requests as common clients send them; each was refused once."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.contracts import ChatRequest, Event, Finished, ImagePart, Sampling, Started, TextPart, Thinking, Usage
from serve_app.errors import InvalidRequest
from serve_app.ingress.surrogates import replace_lone_surrogates
from serve_app.settings import ModelSettings
from tests.fakes import FakeAnswer
from tests.ingress.client import MODEL, MakeClient, chat, events_of, parse_chat, picture, text

URL = "/v1/chat/completions"
QUESTION = {"role": "user", "content": "Which number?"}
ANSWER = {"role": "assistant", "content": "The number is"}


# -- conversations that got stuck -------------------------------------------------------------------


@pytest.mark.parametrize(
    "earlier",
    [
        {"role": "user", "content": ""},
        {"role": "user", "content": None},
        {"role": "user", "content": []},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": None, "reasoning_content": "Hm."},
        {"role": "assistant", "content": "Hello!", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
        {"role": "assistant", "content": "Hello!", "annotations": [], "index": 0, "tool_calls": None},
        {"role": "user", "content": [picture(), text("")]},
        {"role": "user", "content": "Hello", "metadata": None, "options": None},
    ],
)
def test_what_was_said_earlier_does_not_end_a_conversation(earlier: dict[str, Any]) -> None:
    assert parse_chat({"messages": [earlier, QUESTION]}).messages[1].parts == (TextPart("Which number?"),)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_last_or_only_message_may_be_the_systems(role: str) -> None:
    system = {"role": role, "content": "Answer briefly."}
    assert not parse_chat({"messages": [QUESTION, system]}).continue_last
    assert parse_chat({"messages": [system]}).messages[0].role == "system"


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00", "\\ude00\\ud83d", "\\ud83dx"])
async def test_half_a_character_is_read_as_the_replacement_character(make_client: MakeClient, half: str) -> None:
    answer = FakeAnswer("x")
    content = f'{{"messages": [{{"role": "user", "content": "Thanks {half}"}}], "user": "{half}"}}'
    response = await make_client(answer).post(URL, content=content.encode())
    assert response.status_code == 200, response.text
    (part,) = answer.requests[0].messages[0].parts
    assert isinstance(part, TextPart)
    assert "\ufffd" in part.text
    part.text.encode()


@given(st.text(alphabet=st.sampled_from(["\\", "u", "d", "D", "8", "e", "0", "\ud83d", "\ude00", "😀", '"', "x"])))
def test_only_halves_of_characters_are_replaced(content: str) -> None:
    read = json.loads(replace_lone_surrogates(json.dumps(content).encode()))
    whole = content.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert read.replace("\ufffd", "") == whole.replace("\ufffd", "")
    read.encode()


@pytest.mark.parametrize("text", [rb"\ud800" * 2_000_000, rb"\n" * 5_000_000 + rb"\ud800" * 10_001])
def test_a_body_of_halves_of_characters_is_refused_in_time_proportional_to_its_size(text: bytes) -> None:
    """60 MB of them took 3.4 s and 500 MB."""
    started = time.process_time()
    with pytest.raises(InvalidRequest, match="halves of characters"):
        replace_lone_surrogates(b'{"user": "' + text + b'"}')
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "note",
    [
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}]},
        {"extra_content": {"google": {"thought_signature": "x"}}},
        {"additional_kwargs": {"refusal": None}, "response_metadata": {"finish_reason": "stop"}},
        {"id": "msg_1", "type": "message", "model": "m", "stop_reason": "end_turn", "stop_sequence": None, "usage": {}},
        {"thinking": "Hm.", "createdAt": "2026-12-01", "status": "completed", "citations": []},
    ],
)
def test_what_another_service_wrote_on_an_answer_changes_nothing(note: dict[str, Any]) -> None:
    earlier = {"role": "assistant", "content": "Hello!"}
    noted = parse_chat({"messages": [QUESTION, {**earlier, **note}, QUESTION]})
    assert noted == parse_chat({"messages": [QUESTION, earlier, QUESTION]})


@pytest.mark.parametrize("thought", [{"type": "thinking", "thinking": "Hm."}, {"type": "reasoning", "text": "Hm."}])
def test_a_part_of_reasoning_is_no_part_of_the_text(thought: dict[str, Any]) -> None:
    earlier = {"role": "assistant", "content": [{"signature": "", **thought}, text("Hello!")]}
    assert parse_chat({"messages": [QUESTION, earlier, QUESTION]}).messages[1].parts == (TextPart("Hello!"),)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_content_that_is_missing_is_empty_content(role: str) -> None:
    """Clients in Go leave out what is empty."""
    missing = parse_chat({"messages": [{"role": role}, QUESTION]})
    assert missing == parse_chat({"messages": [{"role": role, "content": None}, QUESTION]})


def test_a_result_without_content_is_an_empty_result() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"x": 1}}
    turns = [QUESTION, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c"}]
    assert parse_chat({"messages": turns}).messages[2].parts == ()


# -- prefill --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({}, True),
        ({"continue_final_message": True}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
        ({"continue_final_message": False}, False),
        ({"add_generation_prompt": True}, False),
        ({"add_generation_prompt": False}, True),
        ({"response_format": {"type": "json_object"}}, False),
    ],
)
def test_a_last_message_of_the_assistant_is_continued(fields: dict[str, Any], continues: bool) -> None:
    assert parse_chat({"messages": [QUESTION, ANSWER], **fields}).continue_last is continues


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([QUESTION], {"continue_final_message": True}, "continue_final_message"),
        ([QUESTION], {"add_generation_prompt": False}, "add_generation_prompt"),
        ([QUESTION, {**ANSWER, "content": ""}], {"continue_final_message": True}, "continue_final_message"),
        (
            [QUESTION, ANSWER],
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        (
            [QUESTION, ANSWER],
            {"continue_final_message": True, "response_format": {"type": "json_object"}},
            "continue_final_message",
        ),
    ],
)
def test_a_continuation_that_is_not_possible_is_refused(messages: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_chat({"messages": messages, **fields})
    assert refused.value.param == param


@pytest.mark.parametrize("mark", ["prefix", "partial"])
def test_a_mark_on_the_last_message_continues_it(mark: str) -> None:
    assert parse_chat({"messages": [QUESTION, {**ANSWER, mark: True}]}).continue_last
    for content, fields in (("", {}), ("x", {"add_generation_prompt": True})):
        with pytest.raises(InvalidRequest) as refused:
            parse_chat({"messages": [QUESTION, {**ANSWER, "content": content, mark: True}], **fields})
        assert refused.value.param == f"messages[1].{mark}"
        assert refused.value.message.startswith(f"'messages[1].{mark}' ")


def test_defaults_of_vllm_change_nothing() -> None:
    assert parse_chat(chat(add_generation_prompt=True, continue_final_message=False)) == parse_chat(chat())


# -- values -----------------------------------------------------------------------------------------------


def test_greedy_has_several_names() -> None:
    greedy = Sampling(temperature=0.0)
    assert parse_chat(chat(temperature=0.01, do_sample=False)).sampling == greedy
    assert parse_chat(chat(temperature=0.7, top_p=0)).sampling == greedy
    assert parse_chat(chat(temperature=1e-40)).sampling == greedy  # divided by it, logits are infinite
    assert parse_chat(chat(temperature=0.7, do_sample=True)).sampling == Sampling(temperature=0.7)


@given(st.integers(1, 2**31 - 1))
def test_a_whole_number_may_be_written_with_a_point(number: int) -> None:
    fields = ("max_tokens", "seed", "top_k", "min_tokens")
    exact = parse_chat(chat(**dict.fromkeys(fields, number)))
    assert parse_chat(chat(**dict.fromkeys(fields, float(number)))) == exact


@pytest.mark.parametrize("number", [24.5, "24.5", "", " ", "many", "0x18", "٢٤", "9" * 40, "1e999", "NaN", "Infinity"])
def test_a_number_that_is_not_whole_is_refused(number: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_tokens"):
        parse_chat(chat(max_tokens=number))


def test_the_format_of_a_picture_is_what_its_bytes_say() -> None:
    assert parse_chat(chat([picture(format="image/png")])) == parse_chat(chat([picture()]))


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"thinking": {"type": "enabled", "clear_thinking": True}}, Thinking(True)),
        ({"thinking": {"type": "disabled"}, "enable_thinking": False, "reasoning_effort": "none"}, Thinking(False)),
        ({"thinking": {"type": "auto"}}, Thinking()),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": True}}, Thinking(True)),
    ],
)
def test_switches_of_thinking_may_be_given_together_if_they_agree(fields: dict[str, Any], thinking: Thinking) -> None:
    assert parse_chat(chat(**fields)).thinking == thinking


def test_token_ids_that_end_an_answer_reach_the_pipeline() -> None:
    assert parse_chat(chat(stop_token_ids=[151336, 5.0])).sampling.stop_token_ids == (151336, 5)


# -- names of the model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [MODEL, MODEL.upper(), "GLM-Vision-Demo"])
async def test_the_model_may_be_named_in_any_letter_case(make_client: MakeClient, name: str) -> None:
    client = make_client()
    response = await client.post(URL, json=chat() | {"model": name})
    assert (response.status_code, response.json()["model"]) == (200, MODEL)
    assert (await client.get(f"/v1/models/{name}")).json()["id"] == MODEL


@pytest.mark.parametrize("path", ["zai-org/GLM-4.6V-Flash", "/models/checkpoint"])
async def test_a_model_has_aliases_and_its_hub_id(make_client: MakeClient, path: str) -> None:
    own = ModelSettings(path=path, name="glm-4.6v", aliases=("gpt-4o", "Vision"))
    client = make_client(model=own.model_dump())
    for name in ("glm-4.6v", "GPT-4o", "vision"):
        response = await client.post(URL, json={**chat(), "model": name})
        assert (response.status_code, response.json()["model"]) == (200, "glm-4.6v")
    for route in (f"/v1/models/{path}", f"/v1/models/{path.lower()}"):
        assert (await client.get(route)).status_code == (404 if path.startswith("/") else 200)
    unknown = await client.post(URL, json={**chat(), "model": "gpt-4"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")


# -- what was left out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_pipeline_left_out_or_lowered_is_in_headers(make_client: MakeClient, stream: bool) -> None:
    started = Started(4, 0, {}, ignored_fields=("tools",), clipped_max_tokens=8128)

    async def answer(request: ChatRequest) -> AsyncGenerator[Event, None]:
        yield started
        yield Finished("length", Usage(4, 0), {})

    response = await make_client(answer).post(URL, json=chat(stream=stream))
    assert response.headers["x-ignored-fields"] == "tools"
    assert response.headers["x-max-tokens"] == "8128"


# -- streams ---------------------------------------------------------------------------------------------------


async def test_a_silent_stream_gets_comments_before_and_between_chunks(make_client: MakeClient) -> None:
    answer = FakeAnswer("Two ", "cats", pause_s=0.1)
    client = make_client(answer, settings={"keep_alive_s": 0.03})
    response = await client.post(URL, json=chat(stream=True))
    comment, data = ": keep-alive\n\n", "data: "
    assert response.text.startswith(comment)
    assert comment in response.text[response.text.index(data) :]
    lines = events_of_stream(response.text.replace(comment, ""))
    assert [json.loads(line)["choices"][0]["delta"].get("content") for line in lines[:-1]] == ["", "Two ", "cats", None]


async def test_a_stream_with_news_gets_no_comment(make_client: MakeClient) -> None:
    response = await make_client().post(URL, json=chat(stream=True))
    assert len(events_of(response)) == 5


def events_of_stream(body: str) -> list[str]:
    return [frame.removeprefix("data: ") for frame in body.split("\n\n") if frame]


@pytest.mark.parametrize(
    "thought",
    [
        {"type": "thinking", "thinking": "Need the id."},
        {"type": "thinking", "thinking": [{"type": "text", "text": "Need "}, {"type": "text", "text": "the id."}]},
        {"type": "reasoning", "text": "Need the id."},
        {"type": "reasoning", "reasoning": "Need the id."},
    ],
)
def test_a_part_of_reasoning_is_the_reasoning_of_its_answer(thought: dict[str, Any]) -> None:
    earlier = {"role": "assistant", "content": [thought, text("Hello!")]}
    assert parse_chat({"messages": [QUESTION, earlier, QUESTION]}).messages[1].reasoning == "Need the id."
    named = {**earlier, "reasoning_content": "Another."}
    assert parse_chat({"messages": [QUESTION, named, QUESTION]}).messages[1].reasoning == "Another."


@pytest.mark.parametrize("source", [{"base64": "aGk="}, {"data": "aGk=", "url": ""}])
def test_a_picture_as_base64_is_never_an_address(source: dict[str, str]) -> None:
    asked = {"messages": [{"role": "user", "content": [{"type": "image", **source}, text("x")]}]}
    (picture, _) = parse_chat(asked).messages[0].parts
    assert isinstance(picture, ImagePart)
    assert picture.source == "data:;base64,aGk="
