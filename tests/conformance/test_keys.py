"""Clients with an API key at a service that requires one, and without it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from serve_app.access.key_file import KeyEntry, add_key, hash_key
from tests.cluster.conftest import Service, started
from tests.conformance import open_webui
from tests.conformance.clients import run
from tests.conformance.task import ANSWER, task

pytestmark = pytest.mark.conformance

KEY = "unused"  # that of all clients' scripts
# As `aiohttp` sends them for Open WebUI with ENABLE_FORWARD_USER_INFO_HEADERS.
OPEN_WEBUI = {
    "Authorization": f"Bearer {KEY}",
    "Content-Type": "application/json",
    "X-OpenWebUI-User-Name": "Anna%20M%C3%BCller",
    "X-OpenWebUI-User-Id": "4f2b",
    "X-OpenWebUI-User-Email": "anna@example.com",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "9d1c",
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("guarded")
    add_key(folder / "keys.json", KeyEntry(caller="clients", sha256=hash_key(KEY)))
    with started(folder, "--keys", str(folder / "keys.json")) as service:
        yield service


@pytest.mark.parametrize(
    ("client", "check"), [("openai-3", "picture_answer"), ("langchain", "picture_answer"), ("anthropic", "message")]
)
def test_a_client_with_its_key_is_answered(
    guarded: Service, tmp_path_factory: pytest.TempPathFactory, client: str, check: str
) -> None:
    asked = task(client, guarded.base_url, "", only=(check,))
    assert run(client, asked, tmp_path_factory.mktemp(client))[check]["text"] == ANSWER
    with guarded.client() as http:
        usage = http.get("/v1/usage", headers=OPEN_WEBUI).json()
    assert (usage["caller"], usage["days"][0]["pictures"] > 0) == ("clients", True)


def test_open_webui_with_a_key_is_answered(guarded: Service) -> None:
    with guarded.client() as http:
        models = http.get("/v1/models", headers=OPEN_WEBUI)
        assert models.status_code == 200
        response = http.post("/v1/chat/completions", json=open_webui.question(), headers=OPEN_WEBUI)
        assert response.status_code == 200
        assert response.text.endswith("data: [DONE]\n\n")


def test_a_client_without_a_key_gets_its_own_error(guarded: Service) -> None:
    with guarded.client() as http:
        refused: httpx.Response = http.post("/v1/chat/completions", json=open_webui.question())
        anthropic = http.post("/v1/messages", json={}, headers={"x-api-key": "wrong"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (anthropic.status_code, anthropic.json()["error"]["type"]) == (401, "authentication_error")
