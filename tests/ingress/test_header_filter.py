"""Hosts and origins that are refused, and headers that never reach Ray Serve."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from serve_app.ingress.header_filter import HeaderFilter, allowed_hosts
from tests.ingress.client import MakeClient, chat

URL = "/v1/chat/completions"


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
async def test_a_loopback_name_is_served(make_client: MakeClient, host: str) -> None:
    assert (await make_client().post(URL, json=chat(), headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil"])
async def test_a_name_of_somebody_elses_is_refused_on_loopback(make_client: MakeClient, host: str) -> None:
    """DNS rebinding: a page's own name is pointed at 127.0.0.1."""
    response = await make_client().post(URL, json=chat(), headers={"Host": host})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "host")


def test_any_name_is_served_where_other_machines_connect() -> None:
    assert allowed_hosts("0.0.0.0", ()) == ("*",)
    assert allowed_hosts("127.0.0.1", ()) == ()
    assert allowed_hosts("0.0.0.0", ("ai.example",)) == ("ai.example",)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://ai.example", "Sec-Fetch-Site": "same-origin"}, 200),  # behind a proxy that sets Host
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),  # it was a 500
        ({"Origin": "http://a]"}, 403),
    ],
)
async def test_a_page_of_another_origin_can_not_make_requests(
    make_client: MakeClient, headers: dict[str, str], status: int
) -> None:
    response = await make_client().post(URL, json=chat(), headers=headers)
    assert response.status_code == status


async def test_a_page_of_an_allowed_origin_can(make_client: MakeClient) -> None:
    client = make_client(settings={"allowed_origins": ["https://shop.example"]})
    response = await client.post(URL, json=chat(), headers={"Origin": "https://shop.example"})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "https://shop.example")


PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


async def test_a_preflight_of_an_allowed_origin_is_answered(make_client: MakeClient) -> None:
    client = make_client(settings={"allowed_origins": ["https://shop.example"]})
    response = await client.options(URL, headers={"Origin": "https://shop.example", **PREFLIGHT})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://shop.example"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "x-stainless-os" in response.headers["access-control-allow-headers"]


@pytest.mark.parametrize("allowed", [[], ["https://other.example"]])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_preflight_of_another_origin_gets_no_permission(
    make_client: MakeClient, allowed: list[str], method: str
) -> None:
    """Starlette's refusal lists the methods and headers that other origins may use."""
    client = make_client(settings={"allowed_origins": allowed})
    asked = {**PREFLIGHT, "Origin": "https://shop.example", "Access-Control-Request-Method": method}
    response = await client.options(URL, headers=asked)
    assert response.status_code == (403 if allowed else 405)
    assert not [name for name in response.headers if name.startswith("access-control-")]
    if allowed:
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("permission_error", "permission_denied")
        assert "'https://shop.example'" in error["message"]


@pytest.mark.parametrize(("allowed", "named"), [("https://shop.example", True), ("*", False)])
async def test_a_page_of_the_internet_may_use_a_service_of_an_intranet_only_if_its_origin_is_named(
    make_client: MakeClient, allowed: str, named: bool
) -> None:
    """Chrome's question made the preflight fail: "may not send 'POST'"."""
    client = make_client(settings={"allowed_origins": [allowed]})
    asked = {**PREFLIGHT, "Origin": "https://shop.example", "Access-Control-Request-Private-Network": "true"}
    response = await client.options(URL, headers=asked)
    assert response.headers.get("access-control-allow-private-network") == ("true" if named else None)
    assert response.status_code == (200 if named else 403)
    assert named or "http.allowed_origins is '*'. Add the origin itself" in response.json()["error"]["message"]


async def test_headers_that_only_ray_serve_would_obey_do_not_reach_it() -> None:
    """X-Request-Timeout-Seconds ended requests, bytes that are not UTF-8 gave a 500."""
    passed: list[bytes] = []

    async def ray_serve(scope: Scope, receive: Receive, send: Send) -> None:
        passed.extend(name for name, _ in scope["headers"])

    headers = [
        (b"host", b"localhost"),
        (b"x-request-timeout-seconds", b"0.001"),
        (b"x-request-disconnect-disabled", b"?1"),
        (b"serve_multiplexed_model_id", b"\xff"),
        (b"x-session-id", b"\xff"),
        (b"traceparent", b"\xff"),
        (b"tracestate", b"a=1"),
        (b"\xff", b"1"),
        (b"x-mine", b"\xff"),
    ]

    async def nothing() -> dict[str, object]:
        return {}

    scope = {"type": "http", "method": "POST", "headers": headers}
    await HeaderFilter(ray_serve, allowed_hosts=())(scope, nothing, nothing)  # type: ignore[arg-type]
    assert passed == [b"host", b"tracestate", b"x-mine"]
