"""Ids, the access log and the measurements of a request."""

from __future__ import annotations

import json
import logging
import time
from itertools import count

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.caller import Caller
from serve_app.errors import Overloaded
from serve_app.ingress.outer_middlewares import outer_middlewares, wrap
from serve_app.ingress.request_log import request_log_of
from serve_app.settings import Settings
from tests.fakes import FakeAnswer, FakeDescribe, FakeMeter, FakeTokenize
from tests.ingress.client import PICTURE_URL, PNG, MakeClient, chat, make_app, picture, text

URL = "/v1/chat/completions"


def access(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "glm.access"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/nowhere"])
async def test_a_request_id_is_echoed_or_made(make_client: MakeClient, path: str) -> None:
    client = make_client()
    assert (await client.get(path, headers={"X-Request-ID": "a-1"})).headers.get_list("x-request-id") == ["a-1"]
    assert (await client.get(path)).headers["x-request-id"].startswith("id")


@pytest.mark.parametrize("unfit", [b"", b"x" * 129, b"two words", b"caf\xc3\xa9", b"tab\there"])
async def test_an_unfit_request_id_is_replaced(make_client: MakeClient, unfit: bytes) -> None:
    response = await make_client().get("/healthz", headers={b"X-Request-ID": unfit})
    assert response.headers["x-request-id"] == "id1"


async def test_failures_and_streams_carry_the_request_id_too(make_client: MakeClient) -> None:
    client = make_client()
    client.headers["x-request-id"] = "a-1"
    assert (await client.post(URL, content=b"{")).headers["x-request-id"] == "a-1"
    assert (await client.post(URL, json=chat(stream=True))).headers["x-request-id"] == "a-1"


@pytest.mark.parametrize(
    ("sent", "expected"), [(b"a-1", "a-1"), (b"\xff", "made-here"), (b"x" * 129, "made-here"), (None, "made-here")]
)
async def test_a_response_has_one_request_id_although_ray_serve_adds_its_own(sent: bytes | None, expected: str) -> None:
    """Clients read two headers as "a, a"."""
    app = make_app()

    async def ray_serve(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = dict(scope["headers"])[b"x-request-id"]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await app(scope, receive, send_with_id)

    outer = outer_middlewares(
        Settings(), FakeMeter(), (), host="127.0.0.1", clock=time.monotonic, new_id=lambda: "made-here"
    )
    transport = httpx.ASGITransport(wrap(ray_serve, outer))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.get("/healthz", headers={} if sent is None else {"X-Request-ID": sent})
    assert response.headers.get_list("x-request-id") == [expected]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_has_one_log_record_of_counts_and_times(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    body = chat([picture(), text("My name is Ann.")], stream=stream)
    await make_client(FakeAnswer("Hello ", "Ann")).post(URL, json=body, headers={"X-Request-ID": "a-1"})
    (record,) = access(caplog)
    seen = record.__dict__
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith(f"POST {URL} 200 in ")
    assert (seen["request_id"], seen["answer_id"]) == ("a-1", "chatcmpl-id1")
    assert (seen["route"], seen["method"], seen["status"], seen["code"]) == (URL, "POST", 200, None)
    assert (seen["prompt_tokens"], seen["image_tokens"], seen["completion_tokens"]) == (40, 30, 2)
    assert seen["stages_ms"]["prefill"] == 4.0
    assert seen["total_ms"] > 0


async def test_no_text_or_picture_gets_into_any_log(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = make_client(FakeAnswer("Hello Ann"))
    await client.post(URL, json=chat([picture(), text("My name is Ann.")]))
    await client.post(URL, json=chat([picture(detail="Ann"), text("Ann")]))
    await client.post("/v1/ask", data={"question": "I am Ann."}, files={"image": PNG})
    logged = "".join(json.dumps(record.__dict__, default=str) for record in caplog.records)
    assert len(access(caplog)) == 3
    assert "Ann" not in logged
    assert PICTURE_URL[:40] not in logged


async def test_probes_that_go_well_are_logged_for_debugging_only(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await make_client().get("/readyz")
    await make_client(describe=FakeDescribe(error=OSError())).get("/readyz")
    assert [record.levelno for record in access(caplog)] == [logging.DEBUG, logging.INFO]


async def test_requests_are_measured_by_route_and_status(make_client: MakeClient) -> None:
    meter = FakeMeter()
    client = make_client(meter=meter)
    await client.post(URL, json=chat())
    await client.post(URL, content=b"{")
    await client.get("/v1/models/gpt-4o")
    await client.get("/anything/at/all")
    await client.get("/docs")
    await client.delete("/v1/ask")
    requests = {key[1:]: number for key, number in meter.counts.items() if key[0] == "glm_requests_total"}
    assert requests == {
        (URL, "200"): 1,
        (URL, "400"): 1,
        ("/v1/models/{model:path}", "404"): 1,
        ("unmatched", "404"): 1,
        ("/docs", "200"): 1,
        ("/v1/ask", "405"): 1,
    }
    rejections = {key[1]: number for key, number in meter.counts.items() if key[0] == "glm_rejections_total"}
    assert rejections == {"invalid_request": 1, "model_not_found": 1, "not_found": 1, "method_not_allowed": 1}
    assert len(meter.observed["glm_request_seconds", URL]) == 2


async def test_a_probe_of_a_service_that_is_not_ready_is_not_a_rejection(make_client: MakeClient) -> None:
    meter = FakeMeter()
    client = make_client(meter=meter, describe=FakeDescribe(error=OSError()))
    await client.get("/readyz")
    await client.get("/v1/models")
    assert meter.counts["glm_requests_total", "/readyz", "503"] == 1
    assert meter.counts["glm_rejections_total", "overloaded"] == 1  # of /v1/models


async def test_a_failure_inside_the_stream_counts_as_a_rejection(make_client: MakeClient) -> None:
    meter = FakeMeter()
    answer = FakeAnswer("Two ", error=Overloaded("Full."), fail_after=2)
    await make_client(answer, meter=meter).post(URL, json=chat(stream=True))
    assert meter.counts["glm_rejections_total", "overloaded"] == 1
    assert meter.counts["glm_requests_total", URL, "200"] == 1
    assert meter.counts["glm_cancellations_total",] == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_first_text_and_time_per_token_are_measured(make_client: MakeClient, stream: bool) -> None:
    meter = FakeMeter()
    ticks = count(0, 1.0)  # each look at the clock is a second later
    client = make_client(FakeAnswer("a", "b", "c"), meter=meter, clock=lambda: next(ticks))
    await client.post(URL, json=chat(stream=stream))
    (first,) = meter.observed["glm_first_token_seconds",]
    (each,) = meter.observed["glm_output_token_seconds",]
    assert first >= 1
    assert 0 < each < 5


async def test_an_answer_of_one_token_has_no_time_per_later_token(make_client: MakeClient) -> None:
    meter = FakeMeter()
    await make_client(FakeAnswer("a"), meter=meter).post(URL, json=chat())
    assert len(meter.observed["glm_first_token_seconds",]) == 1
    assert ("glm_output_token_seconds",) not in meter.observed


async def test_probes_of_ray_serves_own_routes_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """HAProxy and the kubelet ask every two seconds, and each request was a line of `kubectl logs`."""
    caplog.set_level(logging.DEBUG)

    async def ray_serve(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"success"})

    outer = outer_middlewares(Settings(), FakeMeter(), (), host="127.0.0.1", clock=time.monotonic, new_id=lambda: "id")
    transport = httpx.ASGITransport(wrap(ray_serve, outer))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.7:8000") as client:
        assert (await client.get("/-/healthz")).text == "success"
    assert access(caplog) == []


async def test_the_log_and_every_request_of_the_pipeline_have_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answer, tokenize, caller = FakeAnswer("Yes"), FakeTokenize(1), Caller("clerk", tenant="shop")

    def identified(app: ASGIApp) -> ASGIApp:
        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            request_log_of(scope).caller = caller
            await app(scope, receive, send)

        return respond

    app = make_app(answer, tokenize=tokenize)
    app.add_middleware(identified)
    app.user_middleware.reverse()  # inside those that make the request log
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
        await client.post(URL, json=chat(n=2))
        await client.post("/tokenize", json={"prompt": "Good morning"})
    assert [request.caller for request in (*answer.requests, *tokenize.requests)] == [caller] * 3
    assert {(record.caller, record.tenant) for record in access(caplog)} == {("clerk", "shop")}  # type: ignore[attr-defined]
