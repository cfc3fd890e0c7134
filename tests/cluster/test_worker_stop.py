"""A worker pod goes while it has work: told before, nothing is lost; killed, only what it had in hand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from tests.cluster.callers import Callers, Outcome
from tests.cluster.nodes import Cluster, Node, running
from tests.cluster.releases import STAGES, two_equal_pods

pytestmark = pytest.mark.cluster
figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO

CALLERS = 6
# How a request may end that was in the hands of a pod when it was killed. A connection that closes without an answer is
# what HTTP has for "ask again": HAProxy does so where it can't say anything certain, and so does the dead pod itself.
LOST = (
    "RemoteProtocolError: Server disconnected without sending a response",
    "RemoteProtocolError: peer closed connection",
    "ReadError",
    "500 Internal Server Error",
    "The replica that worked on",
    "The connection to the model broke",
    "a stream broke off",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("stop")) as cluster:
        cluster.install(two_equal_pods(replicas=2))
        wait_until_whole(cluster)
        yield cluster


def wait_until_whole(cluster: Cluster) -> None:
    """Two replicas of each stage, all on pods that are there."""
    addresses = {node.address for node in cluster.nodes.values()}

    def whole() -> bool:
        deployments = cluster.application()["deployments"]
        running = [[each for each in deployments[stage]["replicas"] if each["state"] == "RUNNING"] for stage in STAGES]
        return all(len(each) == 2 for each in running) and all(
            replica["node_ip"] in addresses for each in running for replica in each
        )

    cluster.until(whole, "two replicas of each stage", limit_s=120)


def busiest(cluster: Cluster) -> Node:
    """The pod with an ingress, and of those the one with most replicas."""
    homes = [replica["node_ip"] for stage in STAGES for replica in cluster.replicas(stage)]
    ingresses = {replica["node_ip"] for replica in cluster.replicas("ingress")}
    address = max(ingresses, key=homes.count)
    return next(node for node in cluster.nodes.values() if node.address == address)


def test_a_worker_that_stops_loses_no_request(cluster: Cluster):
    worker = busiest(cluster)
    seen_unready_s: list[float] = []
    with Callers(cluster, count=CALLERS) as callers:
        told_s = time.monotonic()

        def watch() -> None:
            while callers.door.ready.get(worker.address) and time.monotonic() < told_s + 60:
                time.sleep(0.1)
            seen_unready_s.append(time.monotonic() - told_s)

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        cluster.add_worker("cpu")  # KubeRay makes a new pod as soon as one is being deleted
        said = cluster.terminate(worker)
        stopped_s = time.monotonic() - told_s
        watching.join(60)
        callers.wait_for(50, 60)
    wait_until_whole(cluster)
    figures.info(f"stopped in {stopped_s:.0f} s, unready after {seen_unready_s[0]:.1f} s; {callers.told()}\n{said}")
    assert not callers.failures, callers.told()
    assert "draining" in said
    assert said.strip().endswith(("empty", "nothing is on it")) or "empty after" in said
    assert seen_unready_s[0] < 15, "the Service learns early"
    assert worker.address not in {outcome.address for outcome in callers.outcomes if outcome.began > told_s + 20}


def test_a_worker_that_is_killed_loses_only_what_it_had_in_hand(cluster: Cluster):
    worker = busiest(cluster)
    with Callers(cluster, count=CALLERS) as callers:
        callers.wait_for(30, 30)
        killed = time.monotonic()
        cluster.kill(worker)
        dead = time.monotonic()
        cluster.add_worker("cpu")
        wait_until_whole(cluster)
        recovered_s = time.monotonic() - killed
        callers.wait_for(50, 60)
    figures.info(f"whole again after {recovered_s:.0f} s; {callers.told()}")
    lost = callers.failures
    assert all(any(words in str(outcome.failure) for words in LOST) for outcome in lost), callers.told()
    assert not [outcome for outcome in lost if not in_hand(outcome, killed, dead)], lost
    assert len(lost) <= CALLERS, "one a caller at most: nobody who asked again was turned away again"
    assert max(outcome.seconds for outcome in callers.outcomes) < 30, "nobody hangs"


def in_hand(outcome: Outcome, killed: float, dead: float) -> bool:
    """Whether the request was under way when the pod died, or came in the second in which the door had not seen it."""
    return outcome.began < dead + 1 and outcome.began + outcome.seconds > killed
