"""Replicas and nodes follow the load under the chart's own policy, and no request is lost.

A real Ray with a real autoscaler; nodes are processes of this machine (autoscaler.py) and the demo model runs on the
CPU although each engine asks for a GPU. Serve configuration and worker groups are those that the chart renders for a
cluster, but for bounds, delays and the proxies (`autoscaling_config`). All tests of this file read one run.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.autoscaler import Snapshot, Watch, autoscaled_release, autoscaling_config, start_autoscaled
from tests.cluster.clients import Clients, Outcome, ask_at_once
from tests.cluster.nodes import PORT, Cluster, running
from tests.cluster.questions import chat_body, questions

pytestmark = pytest.mark.cluster

MOST = 3
CLIENTS = 16
SLOTS = 4  # of each engine: sixteen clients need more than three engines
POLLS = 5  # seconds at zero


@dataclass
class Observed:
    """What happened, in this order."""

    served_by_three: int = 0  # requests answered while there were three replicas
    polled: list[int] = field(default_factory=list)  # status codes at zero
    after_polls: Snapshot | None = None
    readyz: int = 0
    first_questions: list[Outcome] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    unconnected: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    return observe(tmp_path_factory.mktemp("nodes"))


def observe(folder: Path) -> Observed:
    observed = Observed()
    release = autoscaled_release(SLOTS)
    bodies = (chat_body(each, stream=turn % 2 == 0) for turn, each in enumerate(itertools.cycle(questions(per_job=20))))
    with running(folder) as cluster:
        start_autoscaled(cluster, release, MOST, autoscaling_config(release, least=1, most=MOST))
        head = cluster.nodes["head"].address
        assert get(cluster, "/v1/models") == 200
        with Clients(cluster, 0, bodies) as clients, Watch(cluster, lambda: clients.count) as watch:
            clients.count = CLIENTS
            watch.until(replicas=3, gpu_nodes=3)
            before = len(clients.outcomes)
            time.sleep(4)
            observed.served_by_three = len(clients.outcomes) - before
            clients.count = 1  # one client continues while replicas go
            watch.until(replicas=1, gpu_nodes=1)
            clients.count = 0
            clients.wait_until_idle()

            cluster.deploy(autoscaling_config(release, least=0, most=MOST))
            watch.until(replicas=0, gpu_nodes=0)
            for _ in range(POLLS):
                paths = ("/healthz", "/v1/models", "/v1/models/glm-vision-demo", "/")
                observed.polled += [get(cluster, path) for path in paths]
                time.sleep(1)
            observed.after_polls = watch.snapshots[-1]

            observed.readyz = get(cluster, "/readyz")
            with pytest.raises(httpx.TimeoutException):  # a client that leaves must not keep the engine awake
                cluster.call(lambda: post(head, next(bodies), timeout_s=1))
            two = [next(bodies), next(bodies)]
            observed.first_questions = cluster.call(lambda: ask_at_once(head, two), 120)
            watch.until(replicas=1)
            watch.until(replicas=0)
        observed.outcomes, observed.unconnected = clients.outcomes, clients.unconnected
        observed.snapshots = watch.snapshots
    return observed


def get(cluster: Cluster, path: str) -> int:
    """The status of a GET on the head's proxy."""
    url = f"http://{cluster.nodes['head'].address}:{PORT}{path}"
    return cluster.call(lambda: httpx.get(url, timeout=30, trust_env=False)).status_code


def post(address: str, body: dict[str, Any], timeout_s: float) -> httpx.Response:
    return httpx.post(f"http://{address}:{PORT}/v1/chat/completions", json=body, timeout=timeout_s, trust_env=False)


def directions(counts: list[int]) -> list[str]:
    """Where a number goes, however many steps it takes."""
    steps = ["up" if later > earlier else "down" for earlier, later in itertools.pairwise(counts) if later != earlier]
    return [step for step, _ in itertools.groupby(steps)]


def test_load_starts_three_replicas_on_three_nodes_and_they_answer(observed: Observed) -> None:
    first = next(snapshot for snapshot in observed.snapshots if snapshot.replicas == 3)
    assert first.nodes == {"cpu": 1, "gpu": 3}
    assert observed.served_by_three > 0


def test_replicas_and_nodes_follow_the_load_without_flapping(observed: Observed) -> None:
    up_and_down_twice = ["up", "down", "up", "down"]
    assert directions([snapshot.target for snapshot in observed.snapshots]) == up_and_down_twice
    assert directions([snapshot.replicas for snapshot in observed.snapshots]) == up_and_down_twice
    gpu_nodes = [snapshot.nodes.get("gpu", 0) for snapshot in observed.snapshots]
    assert directions(gpu_nodes)[:3] == up_and_down_twice[:3]
    assert max(snapshot.target for snapshot in observed.snapshots) == MOST


def test_no_request_is_lost_on_the_way_up_or_down(observed: Observed) -> None:
    assert [outcome for outcome in observed.outcomes if outcome.failure] == []
    assert observed.unconnected == 0
    assert sum(outcome.streamed for outcome in observed.outcomes) > 20
    assert sum(not outcome.streamed for outcome in observed.outcomes) > 20


def test_at_zero_no_gpu_node_is_held(observed: Observed) -> None:
    assert observed.after_polls is not None
    assert observed.after_polls.nodes == {"cpu": 1}


def test_asking_for_models_or_health_wakes_no_engine(observed: Observed) -> None:
    assert set(observed.polled) == {200}
    assert observed.after_polls is not None
    assert (observed.after_polls.replicas, observed.after_polls.target) == (0, 0)


def test_the_first_questions_after_zero_wait_and_are_answered(observed: Observed) -> None:
    assert observed.readyz == 503
    assert [outcome.failure for outcome in observed.first_questions] == ["", ""]


def test_clients_that_left_do_not_keep_the_engine_from_going_back_to_zero(observed: Observed) -> None:
    assert observed.snapshots[-1].replicas == 0


def test_cpu_stages_never_stay_on_a_gpu_node(observed: Observed) -> None:
    assert len(observed.snapshots) > 50
    assert not any(snapshot.misplaced for snapshot in observed.snapshots)
