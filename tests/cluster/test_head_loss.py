"""The head is killed under load: workers continue to answer, and a new head takes over what Redis kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.clients import Clients
from tests.cluster.nodes import Cluster, running
from tests.cluster.release import STAGES, serve_config, two_equal_pods

pytestmark = pytest.mark.cluster
figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO

AWAY_S = 10  # until Kubernetes has a new pod
HEALTH_CHECKS_S = 5  # two of HAProxy's, 2 s each, and one to start


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("head")) as cluster:
        cluster.install(two_equal_pods(replicas=1, values={"faultTolerance.enabled": True}))
        cluster.wait_until_running()
        yield cluster


def test_no_request_fails_while_the_head_is_replaced(cluster: Cluster):
    before = {stage: cluster.replicas(stage)[0]["replica_id"] for stage in STAGES}
    with Clients(cluster, 4) as clients:
        cluster.kill(cluster.nodes["head"])
        killed = time.monotonic()
        time.sleep(AWAY_S)
        without_head = len(clients.outcomes)
        cluster.start_head()
        cluster.wait_until_running()
        back_s = time.monotonic() - killed
        after = {stage: cluster.replicas(stage)[0]["replica_id"] for stage in before}
        gap_s = clients.longest_gap_s()

        # While Serve builds new settings, HAProxy has no ingress to go to but the proxy on the head, just started.
        cluster.until(cluster.proxies_healthy, "healthy proxies on all nodes")
        time.sleep(HEALTH_CHECKS_S)
        cluster.deploy(serve_config(cluster.release, max_slots=12))  # the new head is in charge
        cluster.until(lambda: cluster.replicas("engine")[0]["replica_id"] != before["engine"], "a new engine")
        cluster.wait_until_running()
        clients.wait_for_outcomes(50, 60)
    figures.info(
        f"head back after {back_s:.0f} s, without an answer for {gap_s:.1f} s at most; in all {clients.summary()}"
    )
    assert without_head > 50
    assert after == before, "the replicas that were there are still there"
    assert not clients.failures, clients.summary()
    assert len(clients.texts) == 1


def test_without_a_head_a_worker_finishes_its_requests_and_leaves_within_seconds(cluster: Cluster):
    """The last test of this cluster: of a cluster that is deleted KubeRay deletes the head first, for good."""
    address = str(cluster.replicas("engine")[0]["node_ip"])
    worker = next(node for node in cluster.nodes.values() if node.address == address)
    cluster.kill(cluster.nodes["head"])
    with ThreadPoolExecutor(1) as pool:
        with Clients(cluster, 2) as clients:
            stopped = pool.submit(cluster.terminate, worker)
            clients.wait_for_outcomes(30, 60)
            time.sleep(8)  # longer than the head has to be away
            assert not stopped.done(), "requests are still sent"
        last = time.monotonic()
        output = stopped.result(180)
    figures.info(f"left {time.monotonic() - last:.0f} s after the last answer; {clients.summary()}\n{output}")
    assert not clients.failures, clients.summary()
    assert "Ray's head is gone, and no request is in progress in this pod." in output
    assert time.monotonic() - last < 60, "less than the time-out of a request"
