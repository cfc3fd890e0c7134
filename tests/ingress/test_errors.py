"""One shape of error from every route."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import cast

import httpx
import pytest
from starlette.middleware import Middleware

from serve_app import errors
from serve_app.errors import ImageRejected, Overloaded, ServiceError
from serve_app.ingress.errors import TYPES
from serve_app.ingress.outer_middlewares import wrap
from tests.fakes import FakeAnswer
from tests.ingress.client import PNG, MakeClient, chat, make_app

ERRORS = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, ServiceError)]


async def ask_chat(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat())


async def ask_streamed(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat(stream=True))


async def ask_form(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/ask", data={"question": "?"}, files={"image": PNG})


async def ask_form_streamed(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/ask", data={"question": "?", "stream": "true"}, files={"image": PNG})


ROUTES = [ask_chat, ask_streamed, ask_form, ask_form_streamed]
Asking = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


@pytest.mark.parametrize("ask", ROUTES)
@pytest.mark.parametrize("error", ERRORS)
async def test_every_error_has_the_openai_shape(
    make_client: MakeClient, ask: Asking, error: type[ServiceError]
) -> None:
    response = await ask(make_client(FakeAnswer("x", error=error("Because.", "messages[0]"))))
    assert response.status_code == error.status
    assert response.headers["content-type"] == "application/json"
    kind = TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    assert response.json() == {
        "error": {"message": "Because.", "type": kind, "param": "messages[0]", "code": error.code}
    }
    assert response.headers.get("retry-after") == (f"{error.retry_after_s:.0f}" if error.retry_after_s else None)


@pytest.mark.parametrize("ask", ROUTES)
async def test_an_error_that_crossed_ray_is_mapped_as_ours(make_client: MakeClient, ask: Asking) -> None:
    """Ray raises it as a subclass of its own error and ours, with the remote traceback as its text."""

    class RayTaskError(Exception):
        def __str__(self) -> str:
            return "ray::prepare() (pid=1)\nTraceback …"

    class Crossed(RayTaskError, ImageRejected):
        pass

    response = await ask(make_client(FakeAnswer("x", error=Crossed("Not a picture.", "image"))))
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "Not a picture.",
        "type": "invalid_request_error",
        "param": "image",
        "code": "invalid_image",
    }


@pytest.mark.parametrize("ask", ROUTES)
async def test_an_unexpected_error_has_a_fixed_message_and_is_logged_with_the_request_id(
    make_client: MakeClient, ask: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(FakeAnswer("x", error=ZeroDivisionError("a secret")))
    client.headers["x-request-id"] = "mine"
    response = await ask(client)
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "The service failed on this request; its log has the reason under 'mine'.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.__dict__["request_id"] == "mine"
    assert record.exc_info is not None


async def test_an_unexpected_error_has_the_envelope_where_ray_serve_has_the_outer_middlewares() -> None:
    app = make_app(FakeAnswer("x", error=ZeroDivisionError("a secret")))
    transport = httpx.ASGITransport(wrap(app, cast(list[Middleware], app.user_middleware[0].kwargs["middlewares"])))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await ask_chat(client)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")


async def test_retry_after_is_the_errors_own_time(make_client: MakeClient) -> None:
    error = Overloaded("Full.")
    error.retry_after_s = 2.2
    response = await ask_chat(make_client(FakeAnswer("x", error=error)))
    assert response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nothing", 404, "not_found"),
        ("POST", "/v1/ask/again", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/ask", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_an_unknown_route_has_the_same_envelope(
    make_client: MakeClient, method: str, path: str, status: int, code: str
) -> None:
    response = await make_client().request(method, path)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    if status == 405:
        assert response.headers["allow"] in error["message"]


async def test_the_app_answers_normally_after_each_error(make_client: MakeClient) -> None:
    client = make_client(FakeAnswer("Two ", "cats"))
    for body in (b"{", b"[]", b'{"messages": []}', b'{"messages": [{"role": "user", "content": 5}]}'):
        assert (await client.post("/v1/chat/completions", content=body)).status_code == 400
        assert (await ask_chat(client)).json()["choices"][0]["message"]["content"] == "Two cats"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is empty. Send a JSON object."),
        ('{"model": "物流"}'.encode("utf-16-le"), "The body is not UTF-8: byte 1 is 0x00. Encode the JSON as UTF-8."),
        ("{}".encode("utf-16-be"), "The body is not UTF-8: byte 0 is 0x00. Encode the JSON as UTF-8."),
        ("{}".encode("utf-32-le"), "The body is not UTF-8: byte 1 is 0x00. Encode the JSON as UTF-8."),
        (b'{"messages": [}', "The body is not JSON: expected value at line 1 column 15."),
        (b'{"temperature": NaN}', "The body is not JSON: expected value at line 1 column 17."),
        (b'"hi"', "The body must be a JSON object."),
        (b"[" * 100_000, "The body is not JSON: recursion limit exceeded at line 1 column 202."),
    ],
)
async def test_a_body_that_is_not_json_is_refused_with_the_position(
    make_client: MakeClient, body: bytes, message: str
) -> None:
    response = await make_client().post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": message,
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
    }
