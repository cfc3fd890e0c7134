"""Clients at a service with API keys and one slot: with their key, with a wrong one, and while it is full."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from serve_app.access.key_file import KeyEntry, add_key, hash_key
from tests.cluster.conftest import started
from tests.conformance import fault_proxy as faults
from tests.conformance import open_webui
from tests.conformance.clients import for_clients, run
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
def full_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.FaultProxy]:
    """A proxy in front of a service with one slot, no queue and the clients' key."""
    folder = tmp_path_factory.mktemp("one-slot")
    add_key(folder / "keys.json", KeyEntry(caller="clients", sha256=hash_key(KEY)))
    access = ("--keys", str(folder / "keys.json"), "--anonymous", "allow")  # the stream that occupies it has no key
    with (
        started(folder, "--slots", "1", *access, GLM_ENGINE__MAX_WAITING="0") as service,
        faults.running(service.base_url) as fault_proxy,
    ):
        yield fault_proxy


@pytest.fixture
def http(full_service: faults.FaultProxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=full_service.service_url, timeout=120) as client:
        yield client


@for_clients("openai-3", "openai-node", "ai-sdk")
def test_a_request_to_the_full_service_is_sent_again_and_answered(
    full_service: faults.FaultProxy, tmp_path_factory: pytest.TempPathFactory, client: str
) -> None:
    asked = task(client, full_service.service_url, full_service.url, only=("overloaded",))
    answer = run(client, asked, tmp_path_factory.mktemp(client))["overloaded"]
    assert answer == {"text": ANSWER}
    first, *later = full_service.exchanges["overloaded", client]
    assert first.status == 503
    assert later[-1].status == 200
    assert later[0].at_s - first.at_s > 0.9 * faults.RETRY_AFTER_S


@pytest.mark.parametrize(
    ("client", "check"), [("openai-3", "picture_answer"), ("langchain", "picture_answer"), ("anthropic", "message")]
)
def test_a_client_with_its_key_is_answered(
    full_service: faults.FaultProxy,
    http: httpx.Client,
    tmp_path_factory: pytest.TempPathFactory,
    client: str,
    check: str,
) -> None:
    before = pictures_of(http)
    asked = task(client, full_service.service_url, full_service.url, only=(check,))
    assert run(client, asked, tmp_path_factory.mktemp(client))[check]["text"] == ANSWER
    assert pictures_of(http) > before


def pictures_of(http: httpx.Client) -> int:
    """How many pictures the key's caller has used."""
    usage = http.get("/v1/usage", headers=OPEN_WEBUI).json()
    assert usage["caller"] == "clients"
    return sum(day["pictures"] for day in usage["days"])


def test_open_webui_with_a_key_is_answered(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers=OPEN_WEBUI).status_code == 200
    response = http.post("/v1/chat/completions", json=open_webui.question(), headers=OPEN_WEBUI)
    assert response.status_code == 200
    assert response.text.endswith("data: [DONE]\n\n")


def test_a_wrong_key_gets_the_error_of_its_api(http: httpx.Client) -> None:
    openai = http.post("/v1/chat/completions", json=open_webui.question(), headers={"Authorization": "Bearer wrong"})
    anthropic = http.post("/v1/messages", json={}, headers={"x-api-key": "wrong"})
    assert (openai.status_code, openai.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (anthropic.status_code, anthropic.json()["error"]["type"]) == (401, "authentication_error")
