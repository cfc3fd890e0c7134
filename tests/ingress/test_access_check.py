"""Who may use which route: every route by every kind of credentials, before a body is read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest

from serve_app.access.key_file import add_key, new_key
from tests.fakes import FakeAnswer
from tests.ingress.client import PNG, MakeClient, chat, events_of, make_app

CREDENTIALS = ("none", "wrong", "expired", "metrics", "inference", "admin")
PUBLIC = {("GET", path) for path in ("/", "/healthz", "/readyz", "/health")}
DOCS = {("GET", path) for path in ("/docs", "/openapi.json")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def keys(file: Path) -> dict[str, dict[str, str]]:
    """Headers by kind of credentials."""
    headers = {"none": {}, "wrong": {"Authorization": "Bearer glm-wrong"}}
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    for kind, more in {
        "expired": {"expires": long_ago},
        "metrics": {"scopes": ("metrics",)},
        "inference": {},
        "admin": {"scopes": ("admin",)},
    }.items():
        key, entry = new_key(kind, **more)  # type: ignore[arg-type]
        add_key(file, entry)
        headers[kind] = {"Authorization": f"Bearer {key}"}
    return headers


def routes() -> list[tuple[str, str]]:
    app = make_app()
    documented = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    return [*documented, ("GET", "/"), *sorted(DOCS), ("GET", "/v1/models/"), ("GET", "/nowhere"), ("POST", "/nowhere")]


@pytest.mark.parametrize("kind", CREDENTIALS)
@pytest.mark.parametrize(("method", "path"), routes())
async def test_a_route_by_credentials(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]], method: str, path: str, kind: str
) -> None:
    client = make_client(access={"keys_file": str(file), "public_docs": False})
    response = await client.request(method, path.replace("{model}", "glm-vision-demo"), headers=keys[kind])
    needed = {"/metrics": "metrics", "/v1/widget/tokens": "widget"}.get(path, "inference")
    if (method, path) in PUBLIC or kind == needed:
        assert response.status_code not in (401, 403)
    elif kind in ("none", "wrong", "expired"):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.json()["error"]["type"] == "authentication_error"
    else:
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "permission_denied"


async def test_the_api_reference_is_public_unless_the_setting_says_otherwise(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]]
) -> None:
    client = make_client(access={"keys_file": str(file)})
    assert {(await client.get(path)).status_code for _, path in DOCS} == {200}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/ask"),
        ("GET", "/"),
        ("GET", "/healthz"),
        ("POST", "/healthz"),
        ("POST", "/web/x"),
        ("POST", "/docs"),
    ],
)
async def test_a_refused_request_is_refused_before_its_body_is_read(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]], method: str, path: str
) -> None:
    """Also on public paths."""
    read = 0

    async def body() -> Any:
        nonlocal read
        for _ in range(4):
            read += 1
            yield b" " * 1024

    client = make_client(access={"keys_file": str(file)})
    for headers in ({}, {"content-length": "1024"}):
        response = await client.request(method, path, content=body(), headers=headers)
        assert response.status_code == 401
    assert read == 0


async def test_a_public_path_needs_no_credentials_for_an_empty_body(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]]
) -> None:
    client = make_client(access={"keys_file": str(file)})
    assert (await client.get("/healthz", headers={"content-length": "0"})).status_code == 200


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_credentials_that_are_sent_twice_are_refused(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]], name: str
) -> None:
    """A proxy before the service may have checked the other one."""
    key = keys["inference"]["Authorization"]
    value = key if name == "authorization" else key.removeprefix("Bearer ")
    client = make_client(access={"keys_file": str(file)})
    assert (await client.get("/v1/models", headers=[(name, value)])).status_code == 200
    assert (await client.get("/v1/models", headers=[(name, value), (name, value)])).status_code == 401


@pytest.mark.parametrize("path", ["/web/%2e%2e/v1/models", "/HEALTHZ", "/v1/%2e%2e/healthz"])
async def test_a_path_that_looks_public_does_not_lead_to_another_route(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]], path: str
) -> None:
    response = await make_client(access={"keys_file": str(file)}).get(path)
    assert response.status_code in (401, 404)


@pytest.mark.parametrize("path", ["/metrics%0A", "/metrics%0D%0A", "/metrics/%0A", "/v1/models%00", "/healthz%0A"])
@pytest.mark.parametrize("kind", ["none", "inference", "metrics"])
async def test_a_path_with_control_characters_is_refused(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]], path: str, kind: str
) -> None:
    """The router ignores a line break at the end, so the route would be checked for the scope of another path."""
    response = await make_client(access={"keys_file": str(file)}).get(path, headers=keys[kind])
    assert response.status_code == 400
    assert "has control characters" in response.json()["error"]["message"]


async def test_the_caller_reaches_the_pipeline_streaming_and_not(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]]
) -> None:
    answer = FakeAnswer("Two ", "cats")
    client = make_client(answer, access={"keys_file": str(file)})
    client.headers.update(keys["inference"])
    streamed = await client.post("/v1/chat/completions", json=chat(stream=True))
    assert events_of(streamed)[-1] == "[DONE]"
    await client.post("/v1/ask", files={"image": PNG}, data={"question": "What?"})
    assert [request.caller.id for request in answer.requests] == ["inference"] * 2


async def test_openais_client_works_with_a_key_and_raises_its_own_errors(
    serving: Any, file: Path, keys: dict[str, dict[str, str]]
) -> None:
    url = await serving(FakeAnswer("Two cats"), access={"keys_file": str(file)})
    for kind, error in (("wrong", openai.AuthenticationError), ("metrics", openai.PermissionDeniedError)):
        key = keys[kind]["Authorization"].removeprefix("Bearer ")
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(error):
                await client.models.list()
    key = keys["inference"]["Authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        reply = await client.chat.completions.create(model="glm-vision-demo", messages=chat()["messages"])
        assert reply.choices[0].message.content == "Two cats"
    async with openai.AsyncAzureOpenAI(
        base_url=f"{url}/v1", api_key=key, api_version="1", max_retries=0
    ) as azure:  # sends `api-key`
        assert (await azure.models.list()).data[0].id == "glm-vision-demo"


async def test_a_browsers_preflight_is_answered_before_authentication(
    make_client: MakeClient, file: Path, keys: dict[str, dict[str, str]]
) -> None:
    """It never has credentials."""
    client = make_client(settings={"allowed_origins": ["https://shop.example"]}, access={"keys_file": str(file)})
    preflight = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = await client.options("/v1/chat/completions", headers=preflight)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://shop.example"
    assert "authorization" in response.headers["access-control-allow-headers"]
    foreign = await client.options("/v1/chat/completions", headers={**preflight, "Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert "access-control-allow-origin" not in foreign.headers
    refused = await client.get("/v1/models", headers={"Origin": "https://shop.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"  # so that the page can read why


def test_the_file_of_keys_is_json(file: Path, keys: dict[str, dict[str, str]]) -> None:
    assert len(json.loads(file.read_text())["keys"]) == 4
