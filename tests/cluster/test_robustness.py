"""The running service when clients disconnect, when its ingress dies, and what its log records of requests."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.cluster.conftest import Service

pytestmark = pytest.mark.cluster

REQUESTS = 200
EXPORT_LIMIT_S = 40  # Ray exports a changed gauge after 10 to 20 s


def question(text: object = "What is this?", **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 64, **fields}


def gauge(page: str, name: str) -> list[float]:
    """The values of a metric, one for each replica that has it."""
    return [float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(f"{name}{{")]


def eventually(client: httpx.Client, url: str, fact: Callable[[str], bool]) -> str:
    """The metrics page once it shows the fact; the last one seen if it never does."""
    limit = time.monotonic() + EXPORT_LIMIT_S
    while True:
        page = client.get(url).text
        if fact(page) or time.monotonic() > limit:
            return page
        time.sleep(1)


def at_rest(page: str) -> bool:
    ongoing = gauge(page, "ray_serve_num_ongoing_requests_at_replicas")
    used = gauge(page, "ray_glm_slots_used")
    return bool(ongoing and used) and not any(ongoing) and not any(used)


def test_clients_that_disconnect_leave_no_request_and_no_object_behind(service: Service):
    choose = random.Random(7)

    async def ask(client: httpx.AsyncClient, turn: asyncio.Semaphore, number: int) -> None:
        async with turn:
            patience_s = choose.choice([0.005, 0.02, 0.05, 0.1, 0.3, 1.0])
            try:
                async with asyncio.timeout(patience_s):
                    stream = choose.random() < 0.7
                    await client.post("/v1/chat/completions", json=question(f"Question {number}", stream=stream))
            except TimeoutError:
                pass  # gone

    async def ask_all() -> None:
        turn = asyncio.Semaphore(16)
        async with httpx.AsyncClient(base_url=service.base_url, timeout=60) as client:
            await asyncio.gather(*(ask(client, turn, number) for number in range(REQUESTS)))

    with service.client() as client:
        client.post("/v1/chat/completions", json=question()).raise_for_status()
        before = eventually(client, service.metrics_url, at_rest)
        asyncio.run(ask_all())
        after = eventually(client, service.metrics_url, at_rest)
        assert gauge(after, "ray_glm_slots_used") == [0.0]
        assert not any(gauge(after, "ray_serve_num_ongoing_requests_at_replicas"))
        objects = "ray_object_store_num_local_objects"
        assert sum(gauge(after, objects)) <= sum(gauge(before, objects))
        assert client.post("/v1/chat/completions", json=question()).status_code == 200
    assert "Traceback" not in service.log(), "a client that disconnects is not an error of the service"


def test_the_ingress_comes_back_on_its_port(service: Service):
    with service.client() as client:
        client.get("/healthz").raise_for_status()  # leaves a connection in TIME_WAIT on the port
        (ingress,) = service.processes("ServeReplica:glm:ingress")
        ingress.kill()
        ingress.wait(5)
    limit = time.monotonic() + 60
    with service.client() as client:
        while True:
            try:
                assert client.get("/readyz").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < limit, "the ingress did not come back"
                time.sleep(0.5)
        assert client.post("/v1/chat/completions", json=question()).status_code == 200


def test_a_request_has_one_record_without_its_content(service: Service):
    secret = "the parcel of Mrs Secret"
    with service.client() as client:
        client.post(
            "/v1/chat/completions", json=question(secret, max_tokens=4), headers={"X-Request-ID": "logged-once"}
        ).raise_for_status()
        refused = question([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])
        assert client.post("/v1/chat/completions", json=refused).status_code == 400
    (line,) = [line for line in service.log().splitlines() if line.startswith("logs in ")]
    folder = Path(line.removeprefix("logs in ").partition(";")[0])
    limit = time.monotonic() + 5
    records: list[dict[str, object]] = []
    while not records and time.monotonic() < limit:
        text = "".join(file.read_text() for file in folder.glob("replica_*.log"))
        records = [json.loads(line) for line in text.splitlines() if '"logged-once"' in line and '"glm.access"' in line]
        time.sleep(0.2)
    (record,) = records
    assert (record["status"], record["deployment"], record["request_id"]) == (200, "glm_ingress", "logged-once")
    assert secret not in text
    assert secret not in service.log()
    assert "Traceback" not in service.log(), "a refused picture is not an error of the service"
