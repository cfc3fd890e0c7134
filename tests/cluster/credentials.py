"""Kinds of credentials for a running service, what each route must answer to them, and their rotation under load."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from serve_app.access.key_file import add_key, hash_key, new_key, revoke_keys

OPEN: Final = {"/healthz", "/readyz", "/health", "/", "/docs", "/openapi.json"}
QUESTION: Final = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}
STREAMS: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {**QUESTION, "stream": True},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 4, "stream": True},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 4, "stream": True},
    "/v1/messages": {**QUESTION, "stream": True},
}
ISSUER, AUDIENCE = "https://id.example", "glm"
RELOAD_S: Final = 2.0  # of the file of keys
KEY_SET_RELOAD_S: Final = 11.0  # of the file of public keys, with the shortest `jwt.refresh_s`
Headers = dict[str, str]


@dataclass
class Credentials:
    """Files of keys and of public keys, the same in each folder, and headers by kind of credentials."""

    folders: Sequence[Path]
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    headers: dict[str, Headers] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.publish(one=self.key)
        self.headers = {
            "none": {},
            "wrong": bearer("glm-wrong"),
            "expired": self.add("old", expires=datetime(2020, 1, 1, tzinfo=UTC)),
            "wrong scope": self.add("prometheus", scopes=("metrics",)),
            "key": self.add("shop"),
            "token": self.token(),
            "expired token": self.token(exp=int(time.time()) - 600),
            "token of another service": self.token(aud="other"),
        }

    @property
    def file(self) -> Path:
        return self.folders[0] / "keys.json"

    def add(self, caller: str, **more: Any) -> Headers:
        """Headers with a new key of this caller."""
        key, entry = new_key(caller, **more)
        add_key(self.file, entry)
        self._copy(self.file)
        return bearer(key)

    def revoke(self, headers: Headers) -> None:
        revoke_keys(self.file, hash_key(headers["Authorization"].removeprefix("Bearer "))[:12])
        self._copy(self.file)

    def publish(self, **keys: ec.EllipticCurvePrivateKey) -> None:
        """Replaces the public keys by those of these keys, by id."""
        document = [{**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": id} for id, key in keys.items()]
        file = self.folders[0] / "jwks.json"
        new = file.with_suffix(".new")
        new.write_text(json.dumps({"keys": document}))
        new.replace(file)
        self._copy(file)

    def token(self, *, signed_by: ec.EllipticCurvePrivateKey | None = None, id: str = "one", **more: Any) -> Headers:
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "org": "default", "exp": int(time.time()) + 3600}
        claims |= more
        return bearer(jwt.encode(claims, signed_by or self.key, "ES256", headers={"kid": id}))

    def _copy(self, file: Path) -> None:
        for folder in self.folders[1:]:
            new = folder / f"{file.name}.new"
            shutil.copyfile(file, new)
            new.replace(folder / file.name)


def bearer(credential: str) -> Headers:
    return {"Authorization": f"Bearer {credential}"}


def check_routes(base_url: str, credentials: Credentials) -> None:
    """Every documented route, and some that do not exist, by every kind of credentials."""
    found: dict[tuple[str, str, str], int] = {}
    with httpx.Client(base_url=base_url, timeout=60, trust_env=False) as client:
        document = client.get("/openapi.json").json()
        routes = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
        routes += [("GET", "/"), ("GET", "/docs"), ("GET", "/nowhere"), ("POST", "/v1//chat/completions/")]
        for method, path in routes:
            for kind, headers in credentials.headers.items():
                response = client.request(method, path.replace("{model}", "glm-vision-demo"), headers=headers)
                found[method, path, kind] = response.status_code
    for (method, path, kind), status in found.items():
        allowed = {"/metrics": {"wrong scope"}, "/v1/widget/tokens": set()}.get(path, {"key", "token"})
        if path in OPEN or kind in allowed:
            assert status not in (401, 403), (method, path, kind, status)
        else:
            known = {"wrong scope", "key", "token"}
            assert status == (403 if kind in known else 401), (method, path, kind, status)


def check_stream(base_url: str, credentials: Credentials, path: str) -> None:
    """A stream by every kind of credentials."""
    with httpx.Client(base_url=base_url, timeout=60, trust_env=False) as client:
        for kind, headers in credentials.headers.items():
            with client.stream("POST", path, json=STREAMS[path], headers=headers) as response:
                text = response.read().decode()
            if kind in ("key", "token"):
                assert response.status_code == 200, text
                assert text.count("data: ") > 2
            else:
                assert response.status_code in (401, 403)
                assert json.loads(text)["error"]["code"] in ("invalid_api_key", "permission_denied")


def rotate_keys(base_url: str, credentials: Credentials) -> None:
    """A second key of the caller is added, the client changes, the first one is revoked: no request fails."""
    first = credentials.add("rotating")
    time.sleep(RELOAD_S)

    def rotate(use: Callable[[Headers], None]) -> None:
        time.sleep(0.5)
        second = credentials.add("rotating")
        time.sleep(RELOAD_S)
        use(second)
        time.sleep(1.0)
        credentials.revoke(first)
        time.sleep(RELOAD_S)

    statuses = _statuses_during(base_url, first, rotate)
    assert set(statuses) == {200}
    assert len(statuses) > 20
    assert httpx.get(f"{base_url}/v1/models", headers=first, trust_env=False).status_code == 401


def rotate_public_keys(base_url: str, credentials: Credentials) -> None:
    """The provider publishes a new key, signs with it, and removes the old one: no request fails.

    `credentials.token()` is not accepted afterwards.
    """
    new, old = ec.generate_private_key(ec.SECP256R1()), credentials.token()

    def rotate(use: Callable[[Headers], None]) -> None:
        credentials.publish(one=credentials.key, two=new)
        time.sleep(KEY_SET_RELOAD_S)
        use(credentials.token(signed_by=new, id="two"))
        time.sleep(1.0)
        credentials.publish(two=new)
        time.sleep(KEY_SET_RELOAD_S + 1.0)

    statuses = _statuses_during(base_url, old, rotate)
    assert set(statuses) == {200}
    assert len(statuses) > 20
    assert httpx.get(f"{base_url}/v1/models", headers=old, trust_env=False).status_code == 401


def _statuses_during(
    base_url: str, first: Headers, change: Callable[[Callable[[Headers], None]], None]
) -> list[int | str]:
    """Statuses of what four clients get meanwhile, half of them streams; `change` gets a function that changes their
    credentials."""
    using, statuses, ended = [first], list[int | str](), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=base_url, timeout=60, trust_env=False) as client:
            while not ended.is_set():
                statuses.append(client.post("/tokenize", json={"prompt": "Hi"}, headers=using[0]).status_code)
                stream = client.post("/v1/chat/completions", json=STREAMS["/v1/chat/completions"], headers=using[0])
                is_complete = stream.status_code != 200 or "[DONE]" in stream.text
                statuses.append(stream.status_code if is_complete else "The stream broke off.")
                ended.wait(0.1)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for each in clients:
        each.start()
    try:
        change(lambda headers: using.__setitem__(0, headers))
    finally:
        ended.set()
        for each in clients:
            each.join()
    return statuses
