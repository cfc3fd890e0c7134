"""A worker pod, or a process of one, ends under load: killed, it loses only its requests in flight; drained, none."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tests.cluster.clients import Clients, Outcome
from tests.cluster.nodes import Cluster, Node, running
from tests.cluster.release import STAGES, two_equal_pods

pytestmark = pytest.mark.cluster
figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO

CLIENTS = 6
LONGEST_S = 40  # of a request beside the lost ones: one that was sent to the dead pod is sent again after 20 s
# How a request may end that was in flight on a pod when it was killed. A closed connection is how HTTP says "send it
# again", and all that HAProxy can do when the ingress that has the request dies.
LOST = (
    "RemoteProtocolError: Server disconnected without sending a response",
    "RemoteProtocolError: peer closed connection",
    "ReadError",
    "500 Internal Server Error",
    "The replica that worked on this request died",
    "The replica that worked on this answer was stopped",
    "The connection to the model failed",
    "The stream ended without [DONE]",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("stop")) as cluster:
        # Without the cache of decoded pictures: the tests repeat pictures, and each is to be decoded.
        cluster.install(two_equal_pods(replicas=2, values={"settings.preprocess.decoded_cache_mib": 0}))
        wait_until_complete(cluster)
        yield cluster


def addresses(cluster: Cluster, stage: str) -> list[str]:
    """Addresses of the pods on which the replicas of a stage run."""
    return [str(replica["node_ip"]) for replica in cluster.replicas(stage)]


def wait_until_complete(cluster: Cluster) -> None:
    """Two replicas of each stage, all on pods that are there."""
    pods = {node.address for node in cluster.nodes.values()}

    def complete() -> bool:
        return all(len(found := addresses(cluster, stage)) == 2 and set(found) <= pods for stage in STAGES)

    cluster.until(complete, "two replicas of each stage", limit_s=120)


def busiest(cluster: Cluster) -> Node:
    """Of the pods with an ingress, the one with most replicas."""
    replicas = Counter(address for stage in STAGES for address in addresses(cluster, stage))
    address = max(addresses(cluster, "ingress"), key=lambda each: replicas[each])
    return next(node for node in cluster.nodes.values() if node.address == address)


def in_flight(outcome: Outcome, killed: float, dead: float) -> bool:
    """Whether the request was under way when the pod died, or came before the other proxies had noticed its death."""
    return outcome.began < dead + 1 and outcome.ended > killed


def processes(cluster: Cluster, part: str) -> list[psutil.Process]:
    """The processes of all pods whose command line contains `part`."""
    found = []
    for node in list(cluster.nodes.values()):
        for process in node.init.children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if part in " ".join(process.cmdline()):
                    found.append(process)
    return found


def decoders(cluster: Cluster) -> list[psutil.Process]:
    """The processes that decode, without those that they are forked from; waits for one."""
    found: list[psutil.Process] = []

    def some() -> bool:
        found[:] = [each for each in processes(cluster, "decoder_worker") if not each.children()]
        return bool(found)

    cluster.until(some, "a decoder", limit_s=20)
    return found


# Before the tests that kill replicas: Serve may put both of those that replace them on one pod.
def test_a_killed_worker_loses_only_its_requests_in_flight(cluster: Cluster):
    assert all(len(set(addresses(cluster, stage))) == 2 for stage in STAGES), "Serve spreads replicas over pods"
    worker = busiest(cluster)
    with Clients(cluster, CLIENTS) as clients:
        clients.wait_for_outcomes(30, 30)
        killed = time.monotonic()
        cluster.kill(worker)
        dead = time.monotonic()
        cluster.add_worker("cpu")  # KubeRay makes a new pod
        wait_until_complete(cluster)
        recovered_s = time.monotonic() - killed
        clients.wait_for_outcomes(50, 60)
    figures.info(f"complete again after {recovered_s:.0f} s; {clients.summary()}")
    lost = clients.failures
    assert all(any(words in outcome.failure for words in LOST) for outcome in lost), clients.summary()
    assert not [outcome for outcome in lost if not in_flight(outcome, killed, dead)], clients.summary()
    assert len(lost) <= 2 * CLIENTS, clients.summary()
    assert max(outcome.seconds for outcome in clients.outcomes) < LONGEST_S, "no request hangs"
    assert clients.longest_gap_s() < 10, "the other pod continues to answer"


def test_all_workers_are_drained_one_after_another_and_no_request_is_lost(cluster: Cluster):
    """As `kubectl drain` of every node: the next pod is evicted as soon as the new one of the last is ready."""
    for worker in [node for node in cluster.nodes.values() if node.serves]:
        with Clients(cluster, CLIENTS) as clients:
            began = time.monotonic()
            new = cluster.add_worker("cpu")  # KubeRay makes a new pod as soon as one is being deleted
            output = cluster.terminate(worker)
            stopped_s = time.monotonic() - began
            clients.wait_for_outcomes(50, 60)
        wait_until_complete(cluster)
        last = max((outcome.began for outcome in clients.outcomes if outcome.address == worker.address), default=began)
        last -= began
        figures.info(f"stopped in {stopped_s:.0f} s, last request after {last:.1f} s; {clients.summary()}\n{output}")
        assert not clients.failures, clients.summary()
        assert "is draining" in output
        assert "cut off" not in output
        assert last < 20, "the pod leaves the Service early"
        for stage in STAGES:
            assert new.address in addresses(cluster, stage), "the replicas come back to the new pod"


def test_killed_decoders_lose_no_request(cluster: Cluster):
    """Their pictures are decoded again, by the processes that replace them."""
    with Clients(cluster, CLIENTS) as clients:
        clients.wait_for_outcomes(10, 30)
        for _ in range(8):  # one at a time: a picture whose process is killed twice is refused (503)
            with suppress(psutil.NoSuchProcess):
                max(decoders(cluster), key=lambda decoder: sum(decoder.cpu_times()[:2])).kill()
            time.sleep(0.7)
        clients.wait_for_outcomes(30, 30)
    figures.info(f"eight decoders killed; {clients.summary()}")
    assert not clients.failures, clients.summary()


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_replica_loses_only_what_was_sent_in_part(cluster: Cluster, stage: str):
    """What preprocess or an engine has sent nothing of is computed again; an ingress takes its connections with it."""
    with Clients(cluster, CLIENTS) as clients:
        clients.wait_for_outcomes(20, 30)
        killed = time.monotonic()
        processes(cluster, f"ServeReplica:glm:{stage}")[0].kill()
        clients.wait_for_outcomes(60, 60)
    wait_until_complete(cluster)
    figures.info(f"{stage} killed; {clients.summary()}")
    lost = clients.failures
    if stage == "preprocess":
        assert not lost, clients.summary()
    if stage == "engine":
        assert all(outcome.streamed for outcome in lost), clients.summary()
    assert all(any(words in outcome.failure for words in LOST) for outcome in lost), clients.summary()
    assert not [outcome for outcome in lost if not in_flight(outcome, killed, killed)], clients.summary()
    assert all(outcome.ended < killed + 5 for outcome in lost), "a lost request gets its error at once"
    assert len(lost) <= CLIENTS, clients.summary()
