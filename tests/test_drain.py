"""`glm-serve drain`: which node it marks, how long it waits, what it prints; Ray's control store is a fake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from serve_app import cli
from serve_app.drain import (
    HEAD_GONE_S,
    POLL_S,
    QUIET_S,
    OwnNode,
    Unreachable,
    drain,
    drain_this_pod,
    head_address,
    part_of_serve,
)
from serve_app.in_flight import Activity

WORKER = OwnNode("ab" * 28, is_head=False)
BUSY, EMPTY = Counter(engine=2, proxy=1), Counter[str]()


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class FakeStore:
    """A control store that says one thing of `left` after the other and keeps to the last."""

    def __init__(
        self,
        *left: Counter[str],
        nodes: Sequence[OwnNode | None] = (WORKER,),
        refusal: str | None = None,
        silent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._left = list(left)
        self._nodes = list(nodes)
        self._refusal = refusal
        self._silent = silent
        self.marked: list[tuple[OwnNode, float]] = []

    def own_node(self) -> OwnNode | None:
        if self._silent():
            raise Unreachable("connection refused")
        return self._nodes.pop(0) if len(self._nodes) > 1 else self._nodes[0]

    def drain(self, node: OwnNode, deadline_s: float) -> str | None:
        self.marked.append((node, deadline_s))
        return self._refusal

    def remaining(self, node: OwnNode) -> Counter[str]:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


def drained(
    store: FakeStore,
    within_s: float = 60.0,
    time: Time | None = None,
    activity: Callable[[], Activity] | None = None,
) -> tuple[bool, list[str], float]:
    time = time or Time()
    said: list[str] = []
    began = time.now
    empty = drain(store, within_s, said.append, activity=activity, clock=time.clock, sleep=time.sleep)
    return empty, said, time.now - began


def test_it_marks_the_node_once_and_returns_as_soon_as_it_is_empty():
    store = FakeStore(BUSY, BUSY, EMPTY)
    empty, said, took_s = drained(store)
    assert (empty, took_s) == (True, 2 * POLL_S)
    assert store.marked == [(WORKER, 60.0)]
    assert said == [
        "Node abababab is draining: replacements start on other nodes, and no new requests arrive.",
        "After 0 s still running on the node: 2 x engine, proxy.",
        "The node is empty after 2 s.",
    ]


def test_it_gives_up_when_the_time_is_over_and_says_so():
    empty, said, took_s = drained(FakeStore(BUSY), within_s=20.5)
    assert (empty, took_s) == (False, 20.5)
    assert said[-1] == "The time limit of 20.5 s is over. What still runs on the node ends when the pod stops."


def test_a_long_wait_is_logged_every_fifteen_seconds():
    _, said, _ = drained(FakeStore(BUSY), within_s=40)
    assert [line.partition(" still")[0] for line in said if "still running" in line] == [
        "After 0 s",
        "After 15 s",
        "After 30 s",
    ]


def test_a_node_that_leaves_meanwhile_is_empty():
    empty, said, _ = drained(FakeStore(BUSY, nodes=[WORKER, WORKER, None]))
    assert empty
    assert said[-1] == "The node has left the cluster."


def test_a_pod_without_a_living_node_has_nothing_to_drain():
    store = FakeStore(BUSY, nodes=[None])
    assert drained(store) == (True, ["No Ray node runs in this pod; there is nothing to drain."], 0.0)
    assert not store.marked


def test_the_head_is_left_alone():
    store = FakeStore(BUSY, nodes=[OwnNode("cd" * 28, is_head=True)])
    assert drained(store)[0]
    assert not store.marked


def test_a_refusal_is_told_with_its_reason():
    empty, said, _ = drained(FakeStore(BUSY, refusal="the node is idle"))
    assert (empty, said) == (False, ["Ray refused to drain this node: the node is idle."])


def test_a_head_that_is_away_is_asked_again_until_it_is_back():
    time = Time()
    store = FakeStore(EMPTY, silent=lambda: time.now < 110)
    empty, said, took_s = drained(store, time=time)
    assert (empty, took_s) == (True, 10.0)
    assert said[0] == "Ray's head does not respond (connection refused). Trying again."
    assert store.marked == [(WORKER, 50.0)], "the node learns when its pod is really gone"
    assert len([line for line in said if "does not respond" in line]) == 1


def test_a_head_that_stays_away_costs_no_more_than_the_time_given():
    empty, _, took_s = drained(FakeStore(BUSY, silent=lambda: True), within_s=30)
    assert (empty, took_s) == (False, 30.0)


def test_a_pod_without_requests_leaves_within_seconds_if_the_head_is_gone():
    """A cluster that is deleted as a whole loses its head first; its GPUs were kept for minutes."""
    empty, said, took_s = drained(
        FakeStore(BUSY, silent=lambda: True), within_s=420, activity=lambda: Activity(0, None)
    )
    assert (empty, took_s) == (True, HEAD_GONE_S)
    assert said[-1] == "Ray's head is gone, and no request is in progress in this pod."


def test_requests_in_progress_are_finished_though_the_head_is_gone():
    time = Time()
    until = time.now + 40
    _, said, took_s = drained(
        FakeStore(BUSY, silent=lambda: True),
        within_s=420,
        time=time,
        activity=lambda: Activity(2, 100.0) if time.now < until else Activity(0, until),
    )
    assert took_s == 40 + QUIET_S, "a request may follow the last one"
    assert "Ray's head is gone; requests in progress in this pod: 2." in said


def test_a_head_that_comes_back_moves_the_work_though_nothing_is_in_progress():
    time = Time()
    store = FakeStore(BUSY, BUSY, EMPTY, silent=lambda: time.now < 100 + HEAD_GONE_S - 1)
    _, said, _ = drained(store, time=time, activity=lambda: Activity(0, None))
    assert store.marked
    assert said[-1].startswith("The node is empty")


def test_a_quiet_pod_waits_for_its_replacements_while_there_is_a_head():
    _, _, took_s = drained(FakeStore(BUSY), within_s=60, activity=lambda: Activity(0, None))
    assert took_s == 60


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({"RAY_ADDRESS": "glm-head-svc.glm.svc:6379", "FQ_RAY_IP": "other"}, "glm-head-svc.glm.svc:6379"),
        ({"FQ_RAY_IP": "glm-head-svc.glm.svc", "RAY_PORT": "6380"}, "glm-head-svc.glm.svc:6380"),
        ({"FQ_RAY_IP": "glm-head-svc.glm.svc"}, "glm-head-svc.glm.svc:6379"),
        ({}, None),
    ],
    ids=["address", "host and port", "host", "neither"],
)
def test_the_head_is_found_where_kuberay_says(environment: dict[str, str], address: str | None):
    assert head_address(environment) == address


def test_outside_a_pod_it_says_so_and_succeeds(capsys: pytest.CaptureFixture[str]):
    said: list[str] = []
    drain_this_pod(5, said.append, {})
    assert said == [
        "Neither RAY_ADDRESS nor FQ_RAY_IP is set, so this is not a pod of a Ray cluster; there is nothing to drain."
    ]


@pytest.mark.parametrize(
    ("actor", "part"),
    [
        ("SERVE_REPLICA::glm#engine#b3x9a2", "engine"),
        ("SERVE_PROXY_ACTOR-1e60bf766f90", "proxy"),
        ("SERVE_PROXY_ACTOR-fallback-1e60bf766f90", "proxy"),
        ("SERVE_CONTROLLER_ACTOR", "SERVE_CONTROLLER_ACTOR"),
    ],
)
def test_actors_are_told_by_what_they_are_to_us(actor: str, part: str):
    assert part_of_serve(actor) == part


@pytest.mark.parametrize("within", ["0", "-3", "nan", "inf", "soon", None])
def test_bad_usage_is_the_only_failure(within: str | None, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        cli.main(["drain", *([] if within is None else ["--within", within])])
    assert end.value.code == 2
    assert "--within" in capsys.readouterr().err
