"""A worker pod goes while it has work: killed, only what it had in hand is lost; told before, nothing is."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.cluster.callers import Callers, Outcome
from tests.cluster.nodes import Cluster, Node, running
from tests.cluster.releases import STAGES, two_equal_pods

pytestmark = pytest.mark.cluster
figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO

CALLERS = 6
LONGEST_S = 40  # of a request beside the lost ones: one that was sent to the dead pod is sent again after 20 s
# How a request may end that a pod had in hand when it was killed: a connection that closes is what HTTP has for "ask
# again", and all that HAProxy can say once the request is with an ingress that dies.
LOST = (
    "RemoteProtocolError: Server disconnected without sending a response",
    "RemoteProtocolError: peer closed connection",
    "ReadError",
    "500 Internal Server Error",
    "The replica that worked on this request died",
    "The replica that worked on this answer was stopped",
    "The connection to the model failed",
    "a stream broke off",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("stop")) as cluster:
        cluster.install(two_equal_pods(replicas=2))
        wait_until_whole(cluster)
        yield cluster


def homes(cluster: Cluster, stage: str) -> list[str]:
    """Addresses of the pods on which the replicas of a stage run."""
    return [str(replica["node_ip"]) for replica in cluster.replicas(stage)]


def wait_until_whole(cluster: Cluster) -> None:
    """Two replicas of each stage, all on pods that are there."""
    pods = {node.address for node in cluster.nodes.values()}

    def whole() -> bool:
        return all(len(found := homes(cluster, stage)) == 2 and set(found) <= pods for stage in STAGES)

    cluster.until(whole, "two replicas of each stage", limit_s=120)


def busiest(cluster: Cluster) -> Node:
    """Of the pods with an ingress, the one with most replicas."""
    replicas = Counter(address for stage in STAGES for address in homes(cluster, stage))
    address = max(homes(cluster, "ingress"), key=lambda each: replicas[each])
    return next(node for node in cluster.nodes.values() if node.address == address)


def in_hand(outcome: Outcome, killed: float, dead: float) -> bool:
    """Whether the request was under way when the pod died, or came before the doors of the others had noticed."""
    return outcome.began < dead + 1 and outcome.began + outcome.seconds > killed


def test_a_worker_that_is_killed_loses_only_what_it_had_in_hand(cluster: Cluster):
    assert all(len(set(homes(cluster, stage))) == 2 for stage in STAGES), "Serve spreads replicas over pods"
    worker = busiest(cluster)
    with Callers(cluster, count=CALLERS) as callers:
        callers.wait_for(30, 30)
        killed = time.monotonic()
        cluster.kill(worker)
        dead = time.monotonic()
        cluster.add_worker("cpu")  # KubeRay makes a new pod
        wait_until_whole(cluster)
        recovered_s = time.monotonic() - killed
        callers.wait_for(50, 60)
    figures.info(f"whole again after {recovered_s:.0f} s; {callers.told()}")
    lost = callers.failures
    assert all(any(words in str(outcome.failure) for words in LOST) for outcome in lost), callers.told()
    assert not [outcome for outcome in lost if not in_hand(outcome, killed, dead)], callers.told()
    assert len(lost) <= 2 * CALLERS, callers.told()
    assert max(outcome.seconds for outcome in callers.outcomes) < LONGEST_S, "nobody hangs"
    assert callers.gap_s() < 10, "the other pod goes on answering"


def test_a_worker_that_stops_loses_no_request(cluster: Cluster):
    worker = busiest(cluster)
    with Callers(cluster, count=CALLERS) as callers:
        began = time.monotonic()
        cluster.add_worker("cpu")  # KubeRay makes a new pod as soon as one is being deleted
        said = cluster.terminate(worker)
        stopped_s = time.monotonic() - began
        callers.wait_for(50, 60)
    wait_until_whole(cluster)
    last = max(outcome.began for outcome in callers.outcomes if outcome.address == worker.address) - began
    figures.info(f"stopped in {stopped_s:.0f} s, last request to it after {last:.1f} s; {callers.told()}\n{said}")
    assert not callers.failures, callers.told()
    assert "is draining" in said
    assert "cut off" not in said
    assert last < 20, "the Service learns early that the pod goes"
