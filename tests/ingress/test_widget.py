"""Widget tokens: who may issue them, and that they are accepted for chat from pages of their origin only."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from serve_app.access.key_file import LimitEntry, add_key, new_key
from serve_app.access.widget_tokens import PREFIX
from serve_app.caller import CallerLimits
from serve_app.contracts import ChatRequest
from serve_app.errors import InvalidRequest
from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, chat, make_app, picture

SHOP = "https://shop.example"


@pytest.fixture
def key(tmp_path: Path) -> str:
    key, entry = new_key("site", tenant="acme", scopes=("widget",))
    add_key(tmp_path / "keys.json", entry)
    add_key(tmp_path / "keys.json", new_key("other")[1])
    return key


def client_of(make_client: MakeClient, folder: Path, answer: Any = None, **access: Any) -> httpx.AsyncClient:
    access = {"keys_file": str(folder / "keys.json"), **access}
    return make_client(answer, access=access, settings={"allowed_origins": [SHOP, "https://other.example"]})


async def issue(client: httpx.AsyncClient, key: str, **fields: Any) -> httpx.Response:
    body = {"origin": SHOP, **fields}
    return await client.post("/v1/widget/tokens", json=body, headers={"Authorization": f"Bearer {key}"})


def from_page(token: str, origin: str | None = SHOP) -> dict[str, str | bytes]:
    sent = {"Origin": origin, "Sec-Fetch-Site": "cross-site"} if origin else {}
    return {"Authorization": f"Bearer {token}".encode("latin-1"), **sent}


async def test_a_page_of_the_origin_may_chat_as_the_caller_of_the_key(
    make_client: MakeClient, tmp_path: Path, key: str
) -> None:
    answer = FakeAnswer("Hello")
    client = client_of(make_client, tmp_path, answer)
    issued = await issue(client, key, expires_in_s=60)
    assert issued.headers["cache-control"] == "no-store"
    reply = issued.json()
    assert (reply["object"], reply["origin"], reply["expires_at"]) == ("widget.token", SHOP, 1_700_000_060)
    response = await client.post("/v1/chat/completions", json=chat(), headers=from_page(reply["token"]))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == SHOP
    request: ChatRequest = answer.requests[0]
    assert (request.caller.id, request.caller.tenant, request.caller.scopes) == ("site", "acme", {"chat"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/ask", {}),
        ("/v1/feedback", {"id": "x", "rating": "up"}),
        ("/v1/widget/tokens", {"origin": SHOP}),
    ],
)
async def test_a_token_is_for_chat_only(
    make_client: MakeClient, tmp_path: Path, key: str, path: str, body: dict[str, Any]
) -> None:
    client = client_of(make_client, tmp_path)
    token = (await issue(client, key)).json()["token"]
    response = await client.post(path, json=body, headers=from_page(token))
    assert (response.status_code, response.json()["error"]["code"]) == (403, "permission_denied")


@pytest.mark.parametrize(
    ("origin", "sender"), [("https://other.example", "'https://other.example'"), (None, "the request has no Origin")]
)
async def test_a_stolen_token_is_refused_and_that_is_said(
    make_client: MakeClient, tmp_path: Path, key: str, origin: str | None, sender: str
) -> None:
    client = client_of(make_client, tmp_path)
    token = (await issue(client, key)).json()["token"]
    response = await client.post("/v1/chat/completions", json=chat(), headers=from_page(token, origin))
    message = response.json()["error"]["message"]
    assert response.status_code == 401
    assert f"is for pages of '{SHOP}'" in message
    assert sender in message


async def test_a_token_expires(tmp_path: Path, key: str) -> None:
    seconds = [1_700_000_000.0]
    access = {"keys_file": str(tmp_path / "keys.json")}
    app = make_app(access=access, settings={"allowed_origins": [SHOP]}, clock_now=lambda: seconds[0])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
        token = (await issue(client, key, expires_in_s=10)).json()["token"]
        seconds[0] += 9
        assert (await client.post("/v1/chat/completions", json=chat(), headers=from_page(token))).status_code == 200
        seconds[0] += 1
        response = await client.post("/v1/chat/completions", json=chat(), headers=from_page(token))
    assert response.status_code == 401
    assert "has expired" in response.json()["error"]["message"]


async def test_forged_and_damaged_tokens_are_refused(make_client: MakeClient, tmp_path: Path, key: str) -> None:
    client = client_of(make_client, tmp_path)
    token = (await issue(client, key)).json()["token"]
    claims = jwt.decode(token.removeprefix(PREFIX), options={"verify_signature": False})
    forged = [
        PREFIX + jwt.encode(claims, "x" * 32, "HS256"),
        PREFIX + jwt.encode(claims, "", "none"),
        token[:-2],
        PREFIX,
        token.removeprefix(PREFIX),
        f"{PREFIX}\xff",  # one byte, which is not UTF-8: it was a 500
    ]
    for each in forged:
        response = await client.post("/v1/chat/completions", json=chat(), headers=from_page(each))
        assert response.status_code == 401, each


@pytest.mark.usefixtures("within_a_window")
async def test_the_limits_of_a_token_are_its_own(make_client: MakeClient, tmp_path: Path, key: str) -> None:
    client = client_of(make_client, tmp_path)
    first, second = [(await issue(client, key, limits={"requests_per_second": 0.02})).json()["token"] for _ in range(2)]
    statuses = [
        (await client.post("/v1/chat/completions", json=chat(), headers=from_page(token))).status_code
        for token in (first, first, second)
    ]
    assert statuses == [200, 429, 200]


def limited_key(folder: Path, *, expires_at: float | None = None, **limits: float) -> str:
    key, entry = new_key(
        "site",
        scopes=("widget",),
        limits=LimitEntry.model_validate(limits),
        expires=datetime.fromtimestamp(expires_at, UTC) if expires_at else None,
    )
    add_key(folder / "keys.json", entry)
    return key


async def test_a_token_has_no_higher_limits_than_its_key(make_client: MakeClient, tmp_path: Path) -> None:
    key, answer = limited_key(tmp_path, requests_per_second=50, pictures_per_minute=3), FakeAnswer("Hello")
    client = client_of(make_client, tmp_path, answer)
    limits = {"requests_per_second": 0, "pictures_per_minute": 5, "tokens_per_minute": 10_000}
    token = (await issue(client, key, limits=limits)).json()["token"]
    assert (await client.post("/v1/chat/completions", json=chat(), headers=from_page(token))).status_code == 200
    assert answer.requests[0].caller.limits == CallerLimits(50, 2, 10_000, 3)


@pytest.mark.usefixtures("within_a_window")
async def test_the_tokens_of_a_key_share_its_limits(make_client: MakeClient, tmp_path: Path) -> None:
    key = limited_key(tmp_path, pictures_per_minute=1)
    client = client_of(make_client, tmp_path)
    tokens, body = [(await issue(client, key)).json()["token"] for _ in range(2)], chat([picture()])
    statuses = [
        (await client.post("/v1/chat/completions", json=body, headers=from_page(token))).status_code for token in tokens
    ]
    assert statuses == [200, 429]


async def test_a_token_expires_with_its_key(make_client: MakeClient, tmp_path: Path) -> None:
    key = limited_key(tmp_path, expires_at=1_700_000_030)
    client = client_of(make_client, tmp_path)
    assert (await issue(client, key, expires_in_s=600)).json()["expires_at"] == 1_700_000_030
    assert (await issue(client, key, expires_in_s=9)).json()["expires_at"] == 1_700_000_009


@pytest.mark.parametrize(
    "origin",
    [
        "shop.example",
        "https://shop.example/",
        "https://shop.example/a",
        "ftp://a",
        "null",
        "https://",
        "*",
        "https://shop.example:443",
        "http://shop.example:80",
        "https://shop.example:",
        "https://shop.example:99999",
        "https://user@shop.example",
        "https://[",
    ],
)
async def test_what_is_no_origin_is_refused(make_client: MakeClient, tmp_path: Path, key: str, origin: str) -> None:
    access = {"keys_file": str(tmp_path / "keys.json")}
    response = await issue(make_client(access=access, settings={"allowed_origins": ["*", origin]}), key, origin=origin)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "origin")


async def test_an_origin_that_may_not_call_the_service_gets_no_token(
    make_client: MakeClient, tmp_path: Path, key: str
) -> None:
    response = await issue(client_of(make_client, tmp_path), key, origin="https://elsewhere.example")
    assert response.status_code == 400
    assert "http.allowed_origins" in response.json()["error"]["message"]


async def test_replicas_share_the_secret_of_the_file(make_client: MakeClient, tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_text("s" * 32)
    secret = {"widget_secret_file": str(tmp_path / "secret")}
    token = (await issue(client_of(make_client, tmp_path, **secret), key)).json()["token"]
    other = client_of(make_client, tmp_path, **secret)
    assert (await other.post("/v1/chat/completions", json=chat(), headers=from_page(token))).status_code == 200
    without = client_of(make_client, tmp_path)
    assert (await without.post("/v1/chat/completions", json=chat(), headers=from_page(token))).status_code == 401


@pytest.mark.parametrize("content", [None, "short"])
def test_a_secret_that_is_missing_or_short_stops_the_start(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "secret").write_text(content)
    with pytest.raises(InvalidRequest, match=r"access\.widget_secret_file|32 at least"):
        make_app(access={"widget_secret_file": str(tmp_path / "secret")})
