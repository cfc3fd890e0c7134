"""What a chat request may say; everything else is refused with its place and a sentence."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.contracts import ChatRequest
from serve_app.errors import InvalidRequest
from serve_app.ingress.request import chat_request
from serve_app.ingress.schema import UNSUPPORTED, ChatBody, chat_body
from tests.fakes import FakeAnswer
from tests.ingress.asking import MODEL, OpenDoor, chat, make_app, picture, text

URL = "/v1/chat/completions"


def refused(body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        taken(body)
    return raised.value


def taken(body: dict[str, Any]) -> ChatRequest:
    return chat_request(chat_body(body), id="one", served=MODEL, deadline_s=9.0)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "messages", "'messages' is required."),
        ({"messages": []}, "messages", "'messages' must have 1 or more entries, not 0."),
        ({"messages": "hi"}, "messages", "'messages' must be a list."),
        ({"messages": [5]}, "messages[0]", "'messages[0]' must be an object."),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "'messages[0].role' is required."),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].role",
            "'messages[0].role' is 'tool'; supported here: 'system', 'developer', 'user', 'assistant'.",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "'messages[0].content' is required."),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages[0].content",
            "'messages[0].content' must be a string or a list of parts.",
        ),
        (
            {"messages": [{"role": "user", "content": []}]},
            "messages[0].content",
            "'messages[0].content' must have 1 or more entries, not 0.",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "mood": 1}]},
            "messages[0].mood",
            "'messages[0].mood' is not a field of this request.",
        ),
        (chat(""), "messages[0].content", "The question is empty; the last message has no text."),
        (chat(" \n\t　"), "messages[0].content", "The question is empty; the last message has no text."),
        (
            chat([picture(), text("")]),
            "messages[0].content",
            "The question is empty; the last message has no text.",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "messages[1].role",
            "The last message must be the user's; there is nothing to answer.",
        ),
        (
            chat([text("x"), {"type": "file", "file": {"file_data": "…"}}]),
            "messages[0].content[1].type",
            "'messages[0].content[1].type' is 'file'; supported here: 'text', 'image_url'.",
        ),
        (
            chat([{"type": "input_audio", "input_audio": {}}]),
            "messages[0].content[0].type",
            "'messages[0].content[0].type' is 'input_audio'; supported here: 'text', 'image_url'.",
        ),
        (
            chat([{"type": "video_url", "video_url": {"url": "x"}}]),
            "messages[0].content[0].type",
            "'messages[0].content[0].type' is 'video_url'; supported here: 'text', 'image_url'.",
        ),
        (chat([{"text": "x"}]), "messages[0].content[0].type", "'messages[0].content[0].type' is required."),
        (chat([{"type": "text"}]), "messages[0].content[0].text", "'messages[0].content[0].text' is required."),
        (
            chat([{"type": "image_url"}]),
            "messages[0].content[0].image_url",
            "'messages[0].content[0].image_url' is required.",
        ),
        (
            chat([text("x"), {"type": "image_url", "image_url": {"detail": "low"}}]),
            "messages[0].content[1].image_url.url",
            "'messages[0].content[1].image_url.url' is required.",
        ),
        (
            chat([picture(detail="fine")]),
            "messages[0].content[0].image_url.detail",
            "'messages[0].content[0].image_url.detail' must be 'auto', 'low' or 'high'.",
        ),
        (
            {"messages": [{"role": "system", "content": [picture()]}, {"role": "user", "content": "x"}]},
            "messages[0].content[0].image_url",
            "Pictures belong in the user's messages, not in the system's.",
        ),
        (chat(max_tokens=-5), "max_tokens", "'max_tokens' must be greater than or equal to 1, not -5."),
        (chat(max_tokens=0), "max_tokens", "'max_tokens' must be greater than or equal to 1, not 0."),
        (chat(max_tokens="9"), "max_tokens", "'max_tokens' must be a valid integer."),
        (chat(max_tokens=True), "max_tokens", "'max_tokens' must be a valid integer."),
        (
            chat(max_tokens=1, max_completion_tokens=2),
            "max_completion_tokens",
            "'max_tokens' and 'max_completion_tokens' differ; they mean the same, give one.",
        ),
        (chat(temperature=2.5), "temperature", "'temperature' must be less than or equal to 2, not 2.5."),
        (chat(temperature="0.5"), "temperature", "'temperature' must be a valid number."),
        (chat(top_p=0), "top_p", "'top_p' must be greater than 0, not 0."),
        (chat(top_p=1.01), "top_p", "'top_p' must be less than or equal to 1, not 1.01."),
        (chat(top_k=-2), "top_k", "'top_k' must be greater than or equal to -1, not -2."),
        (chat(seed=2**63), "seed", f"'seed' must be less than or equal to {2**63 - 1}, not {2**63}."),
        (chat(presence_penalty=3), "presence_penalty", "'presence_penalty' must be less than or equal to 2, not 3."),
        (chat(repetition_penalty=0), "repetition_penalty", "'repetition_penalty' must be greater than 0, not 0."),
        (chat(stop=list("abcde")), "stop", "'stop' may have 4 entries at most, not 5."),
        (chat(stop=["a", ""]), "stop[1]", "'stop[1]' must have 1 or more characters."),
        (chat(stop="x" * 300), "stop[0]", "'stop[0]' may have 256 characters at most."),
        (chat(stream="yes"), "stream", "'stream' must be a valid boolean."),
        (
            chat(stream_options={"include_usage": True}),
            "stream_options",
            "'stream_options' is only for a request with 'stream': true.",
        ),
        (
            chat(stream=True, stream_options={"every": 3}),
            "stream_options.every",
            "'stream_options.every' is not a field of this request.",
        ),
        (chat(colour="red"), "colour", "'colour' is not a field of this request."),
        (chat(n=2), "n", "'n' is not supported by this service; it may only be 1."),
        (chat(n=True), "n", "'n' is not supported by this service; it may only be 1."),
        (chat(logprobs=True), "logprobs", "'logprobs' is not supported by this service; it may only be false."),
        (
            chat(response_format={"type": "json_object"}),
            "response_format",
            "'response_format' is not supported by this service; it may only be {\"type\":\"text\"}.",
        ),
        (
            chat(tools=[{"type": "function"}]),
            "tools",
            "'tools' is not supported by this service; it may only be [].",
        ),
        (chat(reasoning_effort="low"), "reasoning_effort", "'reasoning_effort' is not supported by this service."),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_a_sentence(body: dict[str, Any], param: str, message: str) -> None:
    error = refused(body)
    assert (error.param, error.message) == (param, message)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_field_is_refused_by_name(name: str) -> None:
    error = refused(chat(**{name: {"asks": "something"}}))
    assert error.param == name
    assert error.message.startswith(f"'{name}' is not supported by this service")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, harmless in UNSUPPORTED.items() for value in (None, *harmless)]
)
def test_an_unsupported_field_that_asks_for_nothing_is_let_through(name: str, value: Any) -> None:
    assert taken(chat(**{name: value})) == taken(chat())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", "u1"),
        ("metadata", {"job": "7"}),
        ("store", True),
        ("service_tier", "flex"),
        ("safety_identifier", "s"),
        ("prompt_cache_key", "k"),
        ("prompt_cache_retention", "24h"),
    ],
)
def test_an_ignored_field_changes_nothing_and_is_documented(name: str, value: Any) -> None:
    assert taken(chat(**{name: value})) == taken(chat())
    assert ChatBody.model_json_schema()["properties"][name]["description"] == "Accepted and ignored."


def test_a_question_of_pictures_alone_is_taken() -> None:
    assert taken(chat([picture()])).messages[0].parts


def test_a_callers_own_words_are_clipped_in_messages() -> None:
    error = refused(chat(**{"x" * 5000: 1}))
    assert len(error.message) < 300
    assert len(error.param or "") < 300


async def test_an_unknown_model_is_a_404_that_names_the_served_one(door: OpenDoor) -> None:
    response = await door().post(URL, json=chat() | {"model": "gpt-4o"})
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "The model 'gpt-4o' is not served here; this service has 'glm-vision-demo'.",
        "type": "not_found_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_a_request_without_a_model_gets_the_served_one(door: OpenDoor) -> None:
    body = chat()
    del body["model"]
    response = await door().post(URL, json=body)
    assert response.json()["model"] == MODEL


# -- whatever comes, the door keeps standing --------------------------------------------------------

APP = make_app(FakeAnswer("x"))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
)
PARTS = st.one_of(
    ANYTHING,
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image_url", "file"]) | LEAVES},
        optional={"text": LEAVES, "image_url": ANYTHING | st.fixed_dictionaries({"url": LEAVES, "detail": LEAVES})},
    ),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | LEAVES, "content": LEAVES | st.lists(PARTS)},
    optional={"name": LEAVES, "tool_calls": ANYTHING},
)
FIELDS = [name for name in (*ChatBody.model_fields, *UNSUPPORTED) if name != "messages"]
BODIES = ANYTHING | st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES | ANYTHING, max_size=3)},
    optional={name: ANYTHING | st.integers(-3, 3) for name in FIELDS},
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=BODIES)
async def test_no_json_body_makes_the_door_fail(body: Any) -> None:
    raw = json.dumps(body)  # NaN and lone surrogates too: not JSON, but sent
    transport = httpx.ASGITransport(APP)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        response = await client.post(URL, content=raw)
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].endswith((".", ".)"))


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=200))
async def test_no_bytes_make_the_door_fail(raw: bytes) -> None:
    transport = httpx.ASGITransport(APP)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        response = await client.post(URL, content=raw)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"
