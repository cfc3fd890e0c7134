"""Access and audit through the real service: credentials by route, tenants, rotation, limits; kills and a full disk."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.access.key_file import LimitEntry
from serve_app.audit.files import audit_files
from serve_app.audit.verify import verify
from tests.cluster.credentials import (
    QUESTION,
    RELOAD_S,
    STREAMS,
    check_routes,
    check_stream,
    rotate_keys,
    rotate_public_keys,
)
from tests.cluster.guarded import Guarded, guarded_service
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster


REQUESTS = int(os.environ.get("AUDITED_REQUESTS", "200"))
KILLED = ("ingress", "engine", "preprocess")[: 3 if REQUESTS > 200 else 2] * (1 + REQUESTS // 500)
CLIENTS = 4
BACK_S = 120.0  # for a killed replica


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_service(tmp_path_factory.mktemp("guarded")) as running:
        yield running


def test_every_route_by_credentials(guarded: Guarded) -> None:
    check_routes(guarded.base_url, guarded.credentials)


@pytest.mark.parametrize("path", STREAMS)
def test_streams_by_credentials(guarded: Guarded, path: str) -> None:
    check_stream(guarded.base_url, guarded.credentials, path)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "get", "DELETE", "PROPFIND"])
@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "//metrics", "/metrics/", "/%6detrics", "/metrics%2f", "/metrics%0a", "/metrics?a=/docs"),
        *(
            "/metrics#/docs",
            "/metrics;/docs",
            "/./metrics",
            "/docs/../metrics",
            "/web/../metrics",
            "/web/%2e%2e/metrics",
        ),
        *("/web//metrics", "/-/../metrics", "/healthz/../metrics", "http://other/metrics", "http://a@b/metrics", "*"),
        *("/v1/usage", "/docs/../v1/usage", "/web/..%2fv1/usage", "/%76%31/usage", "/v1/%75sage", "/V1/usage", ""),
    ],
)
def test_no_spelling_of_a_path_goes_past_the_check(guarded: Guarded, method: str, path: str) -> None:
    """`prometheus` has the scope metrics only, `shop` inference only."""
    for kind in ("none", "wrong", "wrong scope", "key"):
        status, body = guarded.raw(f"{method} {path} HTTP/1.1", kind)
        assert status < 500, (kind, body)
        if kind in ("none", "wrong"):
            assert status in (400, 401, 404, 405) or (status == 200 and "/web" in path), (kind, status, body)
        if kind != "wrong scope":
            assert "ray_glm_" not in body
        if kind != "key":
            assert '"device_ms"' not in body


def test_tenants_see_nothing_of_each_other(guarded: Guarded) -> None:
    one, other = (guarded.credentials.token(sub="anna", org=org) for org in ("acme", "umbrella"))
    question = {**QUESTION, "messages": [{"role": "user", "content": "Only acme asks this."}]}
    with guarded.service.client() as client:
        chat = [client.post("/v1/chat/completions", json=question, headers=who) for who in (one, one, other)]
        assert [each.headers["x-cache"] for each in chat] == ["miss", "hit", "miss"]
        response = client.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 4}, headers=one).json()
        for reference, status in ((one, 200), (other, 400)):
            items = [
                {"type": "item_reference", "id": response["output"][-1]["id"]},
                {"role": "user", "content": "And?"},
            ]
            body = {"input": items, "max_output_tokens": 4}
            assert client.post("/v1/responses", json=body, headers=reference).status_code == status
        earlier = {"input": "And?", "previous_response_id": response["id"]}
        assert client.post("/v1/responses", json=earlier, headers=other).status_code == 400
        rating = {"id": chat[0].json()["id"], "rating": "down"}
        removed = [client.post("/v1/feedback", json=rating, headers=who).json()["removed"] for who in (other, one)]
        assert removed == [0, 1]
        usage = [client.get("/v1/usage", headers=who).json()["days"][0]["requests"] for who in (one, other)]
    assert usage == [4, 1]


def test_the_log_has_the_caller_and_never_its_key(guarded: Guarded) -> None:
    key = guarded.credentials.headers["key"]
    with guarded.service.client() as client:
        client.post("/v1/chat/completions", json=QUESTION, headers={**key, "Cache-Control": "no-store"})
        usage = client.get("/v1/usage", headers=key).json()
    assert usage["caller"] == "shop"
    assert usage["days"][0]["completion_tokens"] > 0
    assert usage["days"][0]["device_ms"] > 0
    (line,) = [line for line in guarded.service.log().splitlines() if line.startswith("logs in ")]
    folder = Path(line.removeprefix("logs in ").partition(";")[0])
    logs = "".join(file.read_text() for file in folder.rglob("*.log"))
    assert '"caller": "shop"' in logs
    for headers in guarded.credentials.headers.values():
        assert headers.get("Authorization", "Bearer none!").removeprefix("Bearer ") not in logs


def test_keys_rotate_under_load_without_an_error(guarded: Guarded) -> None:
    rotate_keys(guarded.base_url, guarded.credentials)


def test_a_stream_whose_key_is_revoked_ends_as_others_do(guarded: Guarded) -> None:
    """Credentials are checked when a request begins; the next request is refused."""
    leaving = guarded.credentials.add("leaving")
    time.sleep(RELOAD_S)
    body: dict[str, Any] = {**QUESTION, "stream": True, "max_tokens": 400, "ignore_eos": True}
    with guarded.service.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=body, headers=leaving) as response:
            lines = response.iter_lines()
            next(lines)
            guarded.credentials.revoke(leaving)
            assert list(lines)[-2] == "data: [DONE]"
        time.sleep(RELOAD_S)
        assert client.post("/v1/chat/completions", json=body, headers=leaving).status_code == 401


def test_a_caller_above_its_limit_gets_429_and_another_one_does_not(guarded: Guarded) -> None:
    loud = guarded.credentials.add("loud", limits=LimitEntry(requests_per_second=0.5))
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
            shop = guarded.credentials.headers["key"]
            assert client.post("/v1/chat/completions", json=QUESTION, headers=shop).status_code == 200
    time.sleep(2.0)
    ended.set()
    flooding.join()
    assert {200, 429} == set(statuses)
    assert statuses.count(429) > statuses.count(200)


def test_a_header_that_names_another_address_changes_nothing(guarded: Guarded) -> None:
    headers = {"X-Forwarded-For": "10.0.0.1", "X-Forwarded-User": "root"}
    assert httpx.get(f"{guarded.base_url}/v1/models", headers=headers).status_code == 401


# -- audit


def asking(guarded: Guarded) -> httpx.Client:
    """A client with the key of `shop`."""
    client = guarded.service.client()
    client.headers.update(guarded.credentials.headers["key"])
    return client


def numbered(number: int) -> dict[str, Any]:
    content = f"Question {number}"
    stream = {"stream": True} if number % 2 else {}
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0, **stream}


def test_every_answer_has_exactly_one_line_when_replicas_are_killed(guarded: Guarded) -> None:
    answered: list[str] = []
    refused: Counter[str] = Counter()
    numbers = iter(range(REQUESTS))

    def ask() -> None:
        with asking(guarded) as client:
            for number in numbers:
                id = f"request-{number}"
                try:
                    response = client.post("/v1/chat/completions", json=numbered(number), headers={"X-Request-ID": id})
                except httpx.TransportError as error:  # its ingress was killed
                    refused[type(error).__name__] += 1
                    wait_until(lambda client=client: is_ready(client), BACK_S, "the ingress is back")  # type: ignore[misc]
                    continue
                complete = "[DONE]" in response.text if number % 2 else response.status_code == 200
                if response.status_code == 200 and complete and '"error"' not in response.text:
                    answered.append(id)
                else:
                    refused[str(response.status_code)] += 1

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for number, stage in enumerate(KILLED, 1):
        due = number * REQUESTS / (len(KILLED) + 1)
        wait_until(lambda due=due: len(answered) + refused.total() >= due, 300, "more answers")  # type: ignore[misc]
        guarded.kill(stage)
    for each in clients:
        each.join()
    lines = Counter(line["request_id"] for line in guarded.lines() if line["outcome"] == "answered")
    assert len(answered) > REQUESTS / 2, refused
    assert {id: lines[id] for id in answered} == dict.fromkeys(answered, 1)
    found = verify(guarded.audit)
    assert (found.problems, found.lost) == ([], 0)
    assert found.files >= 1 + KILLED.count("ingress")
    first = audit_files(guarded.audit)[0]
    original = first.read_bytes()
    first.write_bytes(original.replace(b'"answered"', b'"answereD"', 1))
    assert verify(guarded.audit).problems
    first.write_bytes(original)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_no_answer_is_given_while_the_disk_is_full(guarded: Guarded) -> None:
    filler = guarded.audit.parent / "filler"
    with asking(guarded) as client:
        wait_until(lambda: is_ready(client), BACK_S, "the service is ready")
        assert client.post("/v1/chat/completions", json=numbered(0)).status_code == 200
        with filler.open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(b"x" * 4096)
        statuses = [client.post("/v1/chat/completions", json=numbered(number)) for number in range(60)]
        refusals = [each for each in statuses if each.status_code != 200]
        assert refusals  # what is left of the last page of the file has room for some lines
        assert all(each.json()["error"]["code"] == "audit_unavailable" for each in refusals)
        assert statuses[-1].status_code == 503
        assert client.get("/healthz").status_code == 200
        filler.unlink()
        wait_until(
            lambda: client.post("/v1/chat/completions", json=numbered(0)).status_code == 200,
            BACK_S,
            "the writer tries again each second",
        )
    found = verify(guarded.audit)
    assert found.problems == []
    assert found.lost > 0
    assert guarded.lines("resumed")


# -- last, since the tokens of the other tests are not accepted afterwards


def test_public_keys_of_tokens_rotate_under_load_without_an_error(guarded: Guarded) -> None:
    rotate_public_keys(guarded.base_url, guarded.credentials)
