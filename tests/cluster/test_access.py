"""Access through the real service: every route by every kind of credentials, streams, rotation of keys, limits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from serve_app.access.key_file import LimitEntry, add_key, hash_key, new_key, revoke_keys
from tests.cluster.conftest import Service, started

pytestmark = pytest.mark.cluster

OPEN = {"/healthz", "/readyz", "/health", "/", "/docs", "/openapi.json"}
QUESTION = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**QUESTION, "stream": True},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 4, "stream": True},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 4, "stream": True},
}
RELOAD_S = 2.0  # of the file of keys


@dataclass
class Guarded:
    """A running service with keys and tokens."""

    service: Service
    file: Path
    jwks: Path
    key: ec.EllipticCurvePrivateKey
    credentials: dict[str, dict[str, str]]  # headers by kind

    def token(self, **more: Any) -> dict[str, str]:
        claims = {"iss": "https://id.example", "aud": "glm", "sub": "anna", "exp": int(time.time()) + 600, **more}
        return bearer(jwt.encode(claims, self.key, "ES256", headers={"kid": "one"}))

    def add(self, caller: str, **more: Any) -> dict[str, str]:
        key, entry = new_key(caller, **more)
        add_key(self.file, entry)
        return bearer(key)


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file, jwks, key = folder / "keys.json", folder / "jwks.json", ec.generate_private_key(ec.SECP256R1())
    public = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    jwks.write_text(json.dumps({"keys": [{**public, "kid": "one"}]}))
    add_key(file, new_key("first")[1])
    environment = {"GLM_JWT__KEYS": str(jwks), "GLM_JWT__ISSUER": "https://id.example", "GLM_JWT__AUDIENCE": "glm"}
    with started(folder, "--keys", str(file), **environment) as service:
        running = Guarded(service, file, jwks, key, {})
        running.credentials = {
            "none": {},
            "wrong": bearer("glm-wrong"),
            "expired": running.add("old", expires=datetime(2020, 1, 1, tzinfo=UTC)),
            "wrong scope": running.add("prometheus", scopes=("metrics",)),
            "key": running.add("shop"),
            "token": running.token(),
            "expired token": running.token(exp=int(time.time()) - 600),
            "token of another service": running.token(aud="other"),
        }
        time.sleep(RELOAD_S)
        yield running


def test_every_route_by_credentials(guarded: Guarded) -> None:
    with guarded.service.client() as client:
        document = client.get("/openapi.json").json()
        routes = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
        routes += [("GET", "/"), ("GET", "/docs"), ("GET", "/nowhere"), ("POST", "/v1//chat/completions/")]
        found: dict[tuple[str, str, str], int] = {}
        for method, path in routes:
            for kind, headers in guarded.credentials.items():
                response = client.request(method, path.replace("{model}", "glm-vision-demo"), headers=headers)
                found[method, path, kind] = response.status_code
    for (method, path, kind), status in found.items():
        allowed = {"wrong scope"} if path == "/metrics" else {"key", "token"}
        if path in OPEN or kind in allowed:
            assert status not in (401, 403), (method, path, kind, status)
        else:
            known = {"wrong scope", "key", "token"}
            assert status == (403 if kind in known else 401), (method, path, kind, status)


@pytest.mark.parametrize("path", STREAMS)
def test_streams_by_credentials(guarded: Guarded, path: str) -> None:
    with guarded.service.client() as client:
        for kind, headers in guarded.credentials.items():
            with client.stream("POST", path, json=STREAMS[path], headers=headers) as response:
                text = response.read().decode()
            if kind in ("key", "token"):
                assert response.status_code == 200
                assert text.count("data: ") > 2
            else:
                assert response.status_code in (401, 403)
                assert json.loads(text)["error"]["code"] in ("invalid_api_key", "permission_denied")


def test_the_log_has_the_caller_and_never_its_key(guarded: Guarded) -> None:
    with guarded.service.client() as client:
        client.post("/v1/chat/completions", json=QUESTION, headers=guarded.credentials["key"])
        usage = client.get("/v1/usage", headers=guarded.credentials["key"]).json()
    assert usage["caller"] == "shop"
    assert usage["days"][0]["completion_tokens"] > 0
    assert usage["days"][0]["device_ms"] > 0
    (line,) = [line for line in guarded.service.log().splitlines() if line.startswith("logs in ")]
    folder = Path(line.removeprefix("logs in ").partition(";")[0])
    logs = "".join(file.read_text() for file in folder.rglob("*.log"))
    assert '"caller": "shop"' in logs
    for headers in guarded.credentials.values():
        assert headers.get("Authorization", "Bearer none!").removeprefix("Bearer ") not in logs


def test_keys_rotate_under_load_without_an_error(guarded: Guarded) -> None:
    """A second key of the caller is added, the client changes, the first one is revoked."""
    first = guarded.add("rotating")
    time.sleep(RELOAD_S)
    using, statuses, ended = [first], [], threading.Event()

    def ask() -> None:
        with guarded.service.client() as client:
            while not ended.is_set():
                statuses.append(client.post("/tokenize", json={"prompt": "Hi"}, headers=using[0]).status_code)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for each in clients:
        each.start()
    time.sleep(0.5)
    second = guarded.add("rotating")
    time.sleep(RELOAD_S)
    using[0] = second
    time.sleep(1.0)
    revoke_keys(guarded.file, hash_key(first["Authorization"].removeprefix("Bearer "))[:12])
    time.sleep(RELOAD_S)
    ended.set()
    for each in clients:
        each.join()
    assert set(statuses) == {200}
    assert len(statuses) > 50
    with guarded.service.client() as client:
        assert client.get("/v1/models", headers=first).status_code == 401


def test_a_caller_above_its_limit_gets_429_and_another_one_does_not(guarded: Guarded) -> None:
    loud = guarded.add("loud", limits=LimitEntry(requests_per_second=2))
    time.sleep(RELOAD_S)
    statuses: list[int] = []
    ended = threading.Event()

    def flood() -> None:
        with guarded.service.client() as client:
            while not ended.is_set():
                statuses.append(client.post("/v1/chat/completions", json=QUESTION, headers=loud).status_code)
                time.sleep(0.05)

    flooding = threading.Thread(target=flood)
    flooding.start()
    with guarded.service.client() as client:
        for _ in range(10):
            response = client.post("/v1/chat/completions", json=QUESTION, headers=guarded.credentials["key"])
            assert response.status_code == 200
    time.sleep(2.0)
    ended.set()
    flooding.join()
    assert {200, 429} == set(statuses)
    assert statuses.count(429) > statuses.count(200)


def test_a_header_that_names_another_address_changes_nothing(guarded: Guarded) -> None:
    headers = {"X-Forwarded-For": "10.0.0.1", "X-Forwarded-User": "root"}
    assert httpx.get(f"{guarded.service.base_url}/v1/models", headers=headers).status_code == 401
