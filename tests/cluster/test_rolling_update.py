"""New settings for a running cluster, under load and with no room for a second engine: nobody's question fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.callers import PATIENCE_S, Callers, Outcome, ask, long_question
from tests.cluster.nodes import Cluster, running
from tests.cluster.releases import ANSWER_S, STAGES, release, serve_config

pytestmark = pytest.mark.cluster
figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO

REQUESTS = 1000
STREAMS = 3
STREAM_TOKENS = 600  # longer than it takes until the engine is told to stop


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The chart's defaults: one pod for ingress and preprocess, one pod with the one GPU that the engine asks for."""
    with running(tmp_path_factory.mktemp("update")) as cluster:
        cluster.install(release(values={"settings.http.request_timeout_s": ANSWER_S}))
        cluster.wait_until_running()
        yield cluster


def replicas(cluster: Cluster) -> set[str]:
    return {replica["replica_id"] for stage in STAGES for replica in cluster.replicas(stage)}


def streams(address: str) -> list[Outcome]:
    async def take() -> list[Outcome]:
        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
            body = long_question(STREAM_TOKENS)
            return await asyncio.gather(*(ask(client, address, body, stream=True) for _ in range(STREAMS)))

    return asyncio.run(take())


def test_an_update_of_settings_under_load_fails_no_request_and_no_stream(cluster: Cluster):
    before = replicas(cluster)
    with Callers(cluster, count=6) as callers:
        under_way = cluster.inside.submit(streams, cluster.nodes["cpu-1"].address)
        time.sleep(1)
        cluster.deploy(serve_config(cluster.release, max_slots=12))
        (whole, updated_s) = under_way.result(PATIENCE_S), cluster.wait_until_running()
        callers.wait_for(max(50, REQUESTS - len(callers.outcomes)), 120)
    figures.info(f"update: {updated_s:.0f} s; {callers.told()}; streams: {[f'{each.seconds:.1f} s' for each in whole]}")
    assert not replicas(cluster) & before, "every replica has the new settings"
    assert len(callers.outcomes) >= REQUESTS
    assert not callers.failures, callers.told()
    assert len(callers.texts) == 1, "the same question was answered in the same words throughout"
    assert [(stream.failure, stream.tokens) for stream in whole] == [(None, STREAM_TOKENS)] * STREAMS
