"""`glm-serve drain`: moves a pod's work to other nodes before Kubernetes stops the pod.

Marks this pod's Ray node as draining. Serve then starts replacements on other nodes, routes the traffic to them, lets
running answers finish, and fails the HTTP health check here, so that Kubernetes sends no new connection. The command
waits until no part of Serve is left on the node, or until its time is over. Without a head, nothing can move: where the
cluster is deleted, the command waits only for the requests that are in progress in this pod.

In KubeRay's containers it needs no arguments: address and token are in the environment.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from serve_app.in_flight import Activity, folder_of_pod, read_activity
from serve_app.logs import WriteLine

POLL_S: Final = 1.0
HEAD_GONE_S: Final = 5.0  # without a response of the control store: it is being deleted or replaced
QUIET_S: Final = 3.0  # without the begin or the end of a request in this pod: none is sent any more
LOG_EVERY_S: Final = 15.0
CALL_TIMEOUT_S: Final = 5.0  # of one call to Ray's control store
GCS_PORT: Final = "6379"
SERVE_NAMESPACE: Final = "serve"
REASON: Final = "The pod of this node is being stopped."


class Unreachable(Exception):
    """Ray's control store did not respond; the message is one line."""


@dataclass(frozen=True, slots=True)
class OwnNode:
    """The Ray node of this pod."""

    id: str  # hexadecimal
    is_head: bool


class ControlStore(Protocol):
    """The calls to Ray's control store (GCS); each may raise `Unreachable`."""

    def own_node(self) -> OwnNode | None:
        """The running node of this pod, or None."""

    def drain(self, node: OwnNode, deadline_s: float) -> str | None:
        """Mark the node; its pod stops `deadline_s` seconds from now. Return the reason of a refusal, or None."""

    def remaining(self, node: OwnNode) -> Counter[str]:
        """Count what Serve still runs on the node: `ingress` 1, `engine` 2, `proxy` 1."""


def drain(
    store: ControlStore,
    within_s: float,
    write_line: WriteLine,
    *,
    activity: Callable[[], Activity] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Drain this pod's node; return True if nothing is left to wait for, False if the time was over before.

    A control store that does not answer is called again, because the head may be restarting: until the time is over, or
    until this pod has been quiet for a few seconds, if `activity` shows that.
    """
    began = answered = clock()
    node, marked, logged_s = None, False, -LOG_EVERY_S
    last_error = ""
    while (spent_s := clock() - began) < within_s:
        try:
            node = store.own_node()
            if node is None:
                write_line(
                    "The node has left the cluster."
                    if marked
                    else "No Ray node runs in this pod; there is nothing to drain."
                )
                return True
            if node.is_head:
                write_line("This is the head node. It runs no replicas, and it can't be moved.")
                return True
            if not marked:
                if refused := store.drain(node, within_s - spent_s):
                    write_line(f"Ray refused to drain this node: {refused}.")
                    return False
                marked = True
                write_line(
                    f"Node {node.id[:8]} is draining: replacements start on other nodes, and no new requests arrive."
                )
            left = store.remaining(node)
            if not left:
                write_line(f"The node is empty after {spent_s:.0f} s.")
                return True
            last_error, answered = "", clock()
            if spent_s - logged_s >= LOG_EVERY_S:
                logged_s = spent_s
                write_line(f"After {spent_s:.0f} s still running on the node: {_listed(left)}.")
        except Unreachable as error:
            if not last_error:
                last_error = str(error)
                write_line(f"Ray's head does not respond ({last_error}). Trying again.")
            if activity is not None and clock() - answered >= HEAD_GONE_S:
                now_active = activity()
                if _is_quiet(now_active, clock()):
                    write_line("Ray's head is gone, and no request is in progress in this pod.")
                    return True
                if clock() - began - logged_s >= LOG_EVERY_S:
                    logged_s = clock() - began
                    write_line(f"Ray's head is gone; requests in progress in this pod: {now_active.requests}.")
        sleep(min(POLL_S, max(0.0, within_s - (clock() - began))))
    write_line(f"The time limit of {within_s:g} s is over. What still runs on the node ends when the pod stops.")
    return False


def _is_quiet(activity: Activity, now: float) -> bool:
    return activity.requests == 0 and (activity.changed is None or now - activity.changed >= QUIET_S)


def _listed(left: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in sorted(left.items()))


def head_address(environment: Mapping[str, str]) -> str | None:
    """Host and port of the control store from the variables that KubeRay sets; None outside its containers."""
    if address := environment.get("RAY_ADDRESS"):
        return address
    if host := environment.get("FQ_RAY_IP"):
        return f"{host}:{environment.get('RAY_PORT', GCS_PORT)}"
    return None


def drain_this_pod(within_s: float, write_line: WriteLine, environment: Mapping[str, str] = os.environ) -> None:
    """Drain the node of the pod that this process runs in."""
    address = head_address(environment)
    if address is None:
        write_line(
            "Neither RAY_ADDRESS nor FQ_RAY_IP is set, so this is not a pod of a Ray cluster;"
            " there is nothing to drain."
        )
        return
    store = RayControlStore(address, environment.get("RAY_CLOUD_INSTANCE_ID", ""))
    folder = folder_of_pod(environment)
    drain(store, within_s, write_line, activity=None if folder is None else lambda: read_activity(folder))


class RayControlStore:
    """Ray 2.60's GCS, through the client that Serve's controller uses.

    `ray drain-node` (ray/scripts/scripts.py) makes the same call, but it finds the node by starting a Ray worker on it,
    which a draining node refuses.
    """

    def __init__(self, address: str, instance: str) -> None:
        self._address = address
        self._instance = instance  # KubeRay: the pod's name
        self._connected: Any = None

    def own_node(self) -> OwnNode | None:
        import ray
        from ray.core.generated.gcs_pb2 import GcsNodeInfo

        own_address = "" if self._instance else ray.util.get_node_ip_address()
        nodes = self._call(lambda client: client.get_all_node_info(timeout=CALL_TIMEOUT_S))
        for node_id, node in nodes.items():
            is_own = node.instance_id == self._instance if self._instance else node.node_manager_address == own_address
            if is_own and node.state == GcsNodeInfo.ALIVE:
                return OwnNode(node_id.hex(), node.is_head_node)
        return None

    def drain(self, node: OwnNode, deadline_s: float) -> str | None:
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        deadline_ms = int((time.time() + deadline_s) * 1000)
        # PREEMPTION: the pod stops even if it is busy. A busy node refuses the other reason, IDLE_TERMINATION.
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why_not = self._call(lambda client: client.drain_node(node.id, reason, REASON, deadline_ms))
        return None if accepted else str(why_not)

    def remaining(self, node: OwnNode) -> Counter[str]:
        async def alive(client: Any) -> Any:
            return await client.async_get_all_actor_info(actor_state_name="ALIVE", timeout=CALL_TIMEOUT_S)

        actors = self._call(lambda client: asyncio.run(alive(client)))
        return Counter(
            part_of_serve(actor.name)
            for actor in actors.values()
            if actor.ray_namespace == SERVE_NAMESPACE and actor.address.node_id.hex() == node.id
        )

    def _call(self, call: Callable[[Any], Any]) -> Any:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its stub is incomplete
        from ray.exceptions import RayError, RpcError

        try:
            if self._connected is None:
                # Without this, Ray's client takes 40 s to find that nothing listens.
                host, _, port = self._address.rpartition(":")
                socket.create_connection((host, int(port)), CALL_TIMEOUT_S).close()
                self._connected = GcsClient(address=self._address)
            return call(self._connected)
        except (RayError, RpcError, OSError) as error:
            self._connected = None
            raise Unreachable((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


def part_of_serve(actor: str) -> str:
    """The deployment of a replica, or `proxy`, from an actor's name as Serve gives it.

    SERVE_REPLICA::glm#engine#b3x9, SERVE_PROXY_ACTOR-<node>
    """
    if actor.startswith("SERVE_REPLICA::"):
        return actor.split("#")[-2]
    return "proxy" if actor.startswith("SERVE_PROXY_ACTOR") else actor
