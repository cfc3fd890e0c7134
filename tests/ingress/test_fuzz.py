"""Random requests: the app answers or refuses with a sentence, and never fails."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_from_bytes

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.contracts import Delta, ToolCallDelta
from serve_app.ingress.chat.request import ChatBody
from serve_app.ingress.completions.request import CompletionBody
from serve_app.ingress.examples import CHAT, COMPLETION, MESSAGES, RESPONSE, TOKENS
from serve_app.ingress.messages.request import MessagesBody
from serve_app.ingress.responses.request import ResponseBody
from serve_app.ingress.tokenize.request import ChatTokensBody, TextTokensBody
from tests.fakes import FakeAnswer
from tests.ingress.client import make_app

APP = make_app(FakeAnswer(Delta("Hm.", 1, "reasoning"), "x", ToolCallDelta(0, "f", "{}", 1)))
ROUTES: dict[str, tuple[Any, set[str]]] = {
    "/v1/chat/completions": (CHAT, {*ChatBody.model_fields, *ChatBody.unsupported}),
    "/v1/responses": (RESPONSE, {*ResponseBody.model_fields, *ResponseBody.unsupported}),
    "/v1/messages": (MESSAGES, {*MessagesBody.model_fields, *MessagesBody.unsupported}),
    "/v1/completions": (COMPLETION, {*CompletionBody.model_fields, *CompletionBody.unsupported}),
    "/tokenize": (TOKENS, {*TextTokensBody.model_fields, *ChatTokensBody.model_fields, *ChatTokensBody.unsupported}),
}
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**30, -(10**30), 1e308, 2**31, 2**63, 2**64])
LEAVES = st.none() | st.booleans() | NUMBERS | st.integers(-3, 3) | st.text(max_size=20)
WORDS = st.sampled_from(
    [
        "text", "image_url", "input_text", "input_image", "type", "role", "content", "function", "name", "user",
        "assistant", "tool", "system", "message", "none", "auto", "required", "json_schema", "json_object", "enabled",
        "low", "file", "input_file", "image", "document", "base64", "tool_use", "tool_result", "thinking",
        "\x00", "\ud800", "<|user|>",
    ]
)  # fmt: skip
ANYTHING = st.recursive(
    LEAVES | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a body."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from places(node[key])


@st.composite
def bodies(draw: st.DrawFn, path: str) -> Any:
    """Anything, or a documented example with anything in place of some of its parts, or beside them."""
    examples, fields = ROUTES[path]
    if draw(st.integers(0, 9)) == 0:
        return draw(ANYTHING)
    body = copy.deepcopy(draw(st.sampled_from([example["value"] for example in examples.values()])))
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        if name not in body:
            body[name] = draw(ANYTHING)
    for _ in range(draw(st.integers(0, 2))):
        container, key = draw(st.sampled_from(list(places(body)) or [({}, "model")]))
        if draw(st.booleans()):
            container[key] = draw(ANYTHING)
        elif isinstance(container, dict):
            container.pop(key, None)
    return body


async def sent(path: str, content: str | bytes) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://localhost") as client:
        return await client.post(path, content=content)


@pytest.mark.parametrize("path", ROUTES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
async def test_no_json_body_makes_the_app_fail(path: str, data: st.DataObject) -> None:
    raw = json.dumps(data.draw(bodies(path)))  # NaN and lone surrogates too: not JSON, but sent
    response = await sent(path, raw)
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].endswith((".", ".)"))


@pytest.mark.parametrize("path", ROUTES)
@settings(max_examples=50, deadline=None)
@given(raw=st.binary(max_size=200))
async def test_no_bytes_make_the_app_fail(path: str, raw: bytes) -> None:
    response = await sent(path, raw)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 100_000,
        b'{"messages":' * 10_000,
        b'{"input": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}",
        b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "max_tokens": 123456789012345678901234567890}',
    ],
    ids=["lists", "objects", "depth", "digits", "infinity", "NaN", "integer"],
)
async def test_extremes_are_refused_with_a_sentence(path: str, raw: bytes) -> None:
    response = await sent(path, raw)
    assert response.status_code == 400
    assert response.json()["error"]["message"].endswith((".", ".)"))


@pytest.mark.parametrize("path", ROUTES)
async def test_no_number_in_any_field_makes_the_app_fail(path: str) -> None:
    examples, fields = ROUTES[path]
    body = next(iter(examples.values()))["value"]
    for name in sorted(fields):
        for number in (10**30, -(10**30), 2**31, 2**63, -1, 0, 0.5, 1e308):
            response = await sent(path, json.dumps({**body, name: number}))
            assert response.status_code in (200, 400, 404), (name, number, response.text)


@settings(max_examples=100, deadline=None)
@given(
    path=st.text(max_size=30).map(quote) | st.binary(max_size=30).map(quote_from_bytes),
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "QUERY"]),
)
async def test_no_path_or_method_makes_the_app_fail(path: str, method: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://localhost") as client:
        response = await client.request(method, f"/v1/{path}")
    assert response.status_code in (400, 404, 405, 415), response.text
    if response.status_code == 405:
        assert response.headers["allow"]
