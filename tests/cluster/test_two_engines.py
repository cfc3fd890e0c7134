"""Two engine replicas behind two ingress replicas on one port: `glm-serve up --engines 2` with the demo model."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from benchmarks.endpoint import EndpointError, StreamedAnswer, stream
from benchmarks.evaluation_set import data_url
from benchmarks.photograph import photograph
from tests.cluster.conftest import Service, started
from tests.cluster.questions import picture_body
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster

EXPORT_LIMIT_S = 40  # Ray exports a changed counter after 10 to 20 s
RESTART_LIMIT_S = 120
CONVERSATIONS, TURNS = 12, 3
TWICE = 4  # pictures that may be encoded twice: their home was busier by a quarter of its slots; by load alone it is 9


@pytest.fixture(scope="module")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with started(tmp_path_factory.mktemp("two"), "--engines", "2", GLM_PREPROCESS__MAX_IMAGE_TOKENS="64") as running:
        yield running


def body(picture: int, turn: int = 0, tokens: int = 4) -> dict[str, Any]:
    url = data_url(photograph(320, 240, picture))
    return picture_body(url, f"What is this? {turn}", max_tokens=tokens, ignore_eos=True, stream=True)


def ask_all(service: Service, bodies: list[dict[str, Any]], once_begun: Callable[[], None] | None = None) -> list[Any]:
    """All at once, each over a connection of its own; the answer, or the error.

    `once_begun` is called when each answer has its first text.
    """
    begun = 0

    def count() -> None:
        nonlocal begun
        begun += 1
        if begun == len(bodies) and once_begun is not None:
            once_begun()

    async def one(number: int) -> StreamedAnswer | EndpointError:
        async with httpx.AsyncClient(base_url=service.base_url, timeout=120) as client:
            try:
                return await stream(client, bodies[number], count)
            except EndpointError as error:
                return error

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(one(number) for number in range(len(bodies))))

    return asyncio.run(all_of_them())


def encoded(service: Service) -> dict[str, float]:
    """Pictures that each engine replica had to encode."""
    page = httpx.get(service.metrics_url).text
    lines = re.findall(r'^ray_glm_feature_cache_misses_total\{.*replica="([^"]+)".*\} (\S+)$', page, re.M)
    return {replica: float(value) for replica, value in lines}


def test_follow_ups_reach_the_replica_that_holds_their_picture(two_engines: Service):
    wait_until(lambda: len(encoded(two_engines)) == 2, EXPORT_LIMIT_S, "each engine encodes a picture at its start")
    before = encoded(two_engines)
    for turn in range(TURNS):
        answers = ask_all(two_engines, [body(picture, turn) for picture in range(CONVERSATIONS)])
        assert all(isinstance(answer, StreamedAnswer) for answer in answers), answers

    def new() -> dict[str, float]:
        return {replica: count - before[replica] for replica, count in encoded(two_engines).items()}

    wait_until(lambda: sum(new().values()) >= CONVERSATIONS, EXPORT_LIMIT_S, lambda: f"encoded: {new()}")
    time.sleep(12)  # one more export, which would show a picture that was encoded twice
    assert sum(new().values()) <= CONVERSATIONS + TWICE
    assert min(new().values()) > 0, "both replicas work"


def test_connections_are_spread_over_both_ingress_replicas(two_engines: Service):
    port = httpx.URL(two_engines.base_url).port
    clients = [httpx.Client(base_url=two_engines.base_url) for _ in range(24)]
    try:
        assert {client.get("/healthz").status_code for client in clients} == {200}
        connected = [
            sum(each.laddr.port == port and each.status == "ESTABLISHED" for each in ingress.net_connections())
            for ingress in two_engines.processes("glm:ingress")
        ]
    finally:
        for client in clients:
            client.close()
    assert len(connected) == 2
    assert sum(connected) >= 24
    assert min(connected) > 0


def test_all_choices_of_a_request_are_answered(two_engines: Service):
    choices = {**body(100), "stream": False, "n": 4, "temperature": 1}
    response = httpx.post(f"{two_engines.base_url}/v1/chat/completions", json=choices, timeout=60)
    assert response.status_code == 200
    assert len(response.json()["choices"]) == 4


def test_a_replica_that_dies_takes_only_its_own_answers_and_its_conversations_go_on(two_engines: Service):
    engines = two_engines.processes("glm:engine")
    assert len(engines) == 2
    pictures = range(CONVERSATIONS)
    outcomes = ask_all(two_engines, [body(picture, tokens=600) for picture in pictures], engines[0].kill)
    lost = [outcome for outcome in outcomes if isinstance(outcome, EndpointError)]
    assert 0 < len(lost) < CONVERSATIONS, outcomes
    follow_ups = ask_all(two_engines, [body(picture, turn=1) for picture in pictures])
    assert all(isinstance(answer, StreamedAnswer) for answer in follow_ups), follow_ups
    wait_until(
        lambda: len(two_engines.processes("glm:engine")) == 2, RESTART_LIMIT_S, "no second engine replica was started"
    )
