"""A prompt's tokens, counted and shown."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from serve_app.contracts import ChatRequest, ImagePart, Message, TextPart, Thinking
from serve_app.errors import ContextTooLong, DeadlineExceeded, ImageRejected, ServiceError
from serve_app.ingress.tokenize.response import TokensReply
from tests.fakes import FakeTokenize
from tests.ingress.client import MODEL, PICTURE_URL, MakeClient, chat, picture, text

URL = "/tokenize"


async def test_a_texts_tokens_are_vllms_response_with_the_image_tokens(make_client: MakeClient) -> None:
    tokenize = FakeTokenize(5, 6, 7, image_tokens=2)
    response = await make_client(tokenize=tokenize).post(URL, json={"model": MODEL, "prompt": "Good morning"})
    assert response.status_code == 200
    reply = response.json()
    TypeAdapter(TokensReply).validate_python(reply, strict=True)
    assert reply == {"count": 3, "max_model_len": 2048, "tokens": [5, 6, 7], "image_tokens": 2}
    assert tokenize.requests == [ChatRequest("tokens-id2", (), deadline_s=300.0, text="Good morning")]


async def test_an_empty_text_has_no_tokens(make_client: MakeClient) -> None:
    response = await make_client(tokenize=FakeTokenize()).post(URL, json={"prompt": ""})
    assert response.json()["count"] == 0


@pytest.mark.parametrize(("sent", "special"), [(None, True), (True, True), (False, False)])
async def test_a_text_may_be_tokenized_without_special_tokens(
    make_client: MakeClient, sent: bool | None, special: bool
) -> None:
    """The field was accepted and had no effect."""
    tokenize = FakeTokenize(1)
    body = {"prompt": "x", "add_special_tokens": sent}
    assert (await make_client(tokenize=tokenize).post(URL, json=body)).status_code == 200
    assert tokenize.requests[0].special_tokens is special


async def test_a_conversation_is_what_chat_would_make_of_it(make_client: MakeClient) -> None:
    tokenize = FakeTokenize(1)
    body = {
        **chat([picture(detail="low"), text("What?")]),
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "chat_template_kwargs": {"enable_thinking": False},
        "add_generation_prompt": True,
    }
    assert (await make_client(tokenize=tokenize).post(URL, json=body)).status_code == 200
    (request,) = tokenize.requests
    parts = (ImagePart(PICTURE_URL, "messages[0].content[0].image_url", "low"), TextPart("What?"))
    assert request.messages == (Message("user", parts),)
    assert request.tools is not None
    assert (request.tools.tools[0].name, request.thinking, request.text) == ("f", Thinking(False), None)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "'prompt' is required."),
        ({"prompt": ["a"]}, "prompt", "'prompt' must be a valid string."),
        ({"prompt": "x", "tools": []}, "tools", "'tools' is not a field of this request."),
        ({"messages": []}, "messages", "'messages' must have 1 or more entries, not 0."),
        ({**chat(), "prompt": "x"}, "prompt", "'prompt' is not a field of this request."),
        (
            {**chat(), "add_generation_prompt": False},
            "add_generation_prompt",
            "'add_generation_prompt' needs a last message of the assistant with a text to continue.",
        ),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named_with_a_sentence(
    make_client: MakeClient, body: dict[str, Any], param: str, message: str
) -> None:
    response = await make_client().post(URL, json=body)
    assert response.status_code == 400
    assert (response.json()["error"]["param"], response.json()["error"]["message"]) == (param, message)


@pytest.mark.parametrize("error", [ImageRejected("No."), ContextTooLong("No."), DeadlineExceeded("No.")])
async def test_a_failure_has_its_status(make_client: MakeClient, error: ServiceError) -> None:
    response = await make_client(tokenize=FakeTokenize(error=error)).post(URL, json={"prompt": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (error.status, error.code)


async def test_another_model_is_a_404(make_client: MakeClient) -> None:
    response = await make_client().post(URL, json={"prompt": "x", "model": "gpt-4o"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
