"""Settings of a running cluster change under load, with no room for a second engine: no request fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from tests.cluster.clients import Clients, ask_at_once
from tests.cluster.nodes import Cluster, running
from tests.cluster.questions import fixed_length_body
from tests.cluster.release import ANSWER_S, STAGES, release, serve_config

pytestmark = pytest.mark.cluster
figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO

REQUESTS = 1000
STREAMS = 3
STREAM_TOKENS = 600  # takes longer than Serve takes to send the engine its stop


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The chart's defaults: one pod for ingress and preprocess, one pod with the one GPU that the engine asks for."""
    with running(tmp_path_factory.mktemp("update")) as cluster:
        cluster.install(release(values={"settings.http.request_timeout_s": ANSWER_S}))
        cluster.wait_until_running()
        yield cluster


def replicas(cluster: Cluster) -> set[str]:
    return {replica["replica_id"] for stage in STAGES for replica in cluster.replicas(stage)}


def test_an_update_of_settings_under_load_fails_no_request_and_no_stream(cluster: Cluster):
    before = replicas(cluster)
    address = cluster.nodes["cpu-1"].address
    long = [fixed_length_body(STREAM_TOKENS, stream=True)] * STREAMS
    with Clients(cluster, 6) as clients:
        under_way = cluster.threads.submit(ask_at_once, address, long)
        time.sleep(1)
        cluster.deploy(serve_config(cluster.release, max_slots=12))
        streams, updated_s = under_way.result(ANSWER_S), cluster.wait_until_running()
        clients.wait_for_outcomes(max(50, REQUESTS - len(clients.outcomes)), 120)
    seconds = [f"{stream.seconds:.1f} s" for stream in streams]
    figures.info(f"update: {updated_s:.0f} s; {clients.summary()}; streams: {seconds}")
    assert not replicas(cluster) & before, "every replica has the new settings"
    assert len(clients.outcomes) >= REQUESTS
    assert not clients.failures, clients.summary()
    assert len(clients.texts) == 1, "the same question got the same answer throughout"
    assert [(stream.failure, stream.tokens) for stream in streams] == [("", STREAM_TOKENS)] * STREAMS
