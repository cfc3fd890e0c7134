"""`glm-serve drain`: the last words of a pod, before its worker is told to stop.

Marks this pod's Ray node as draining. Serve then starts replacements on other nodes, moves the traffic over,
lets answers under way come to their end, and fails the door's health check here, so that Kubernetes sends no new
connection. This command waits until nothing of Serve is left on the node, or until its time is over.

Where it runs as KubeRay's containers do, it needs no arguments: address and token are in the environment.
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

from serve_app.logs import WriteLine

POLL_S: Final = 1.0
TELL_EVERY_S: Final = 15.0
CALL_TIMEOUT_S: Final = 5.0  # of one question to Ray's control store
GCS_PORT: Final = "6379"
SERVE_NAMESPACE: Final = "serve"
REASON: Final = "its pod is being stopped"


class Unreachable(Exception):
    """Ray's control store did not answer; the message is one line for the pod's log."""


@dataclass(frozen=True, slots=True)
class OwnNode:
    """The Ray node of this pod."""

    id: str  # hexadecimal
    is_head: bool


class ControlStore(Protocol):
    """What is asked of Ray's control store (GCS); each call may raise `Unreachable`."""

    def own_node(self) -> OwnNode | None:
        """None: no node that lives is this pod's."""

    def drain(self, node: OwnNode, deadline_s: float) -> str | None:
        """Marks the node; `deadline_s` from now its pod is gone. Returns why it was refused, None if it was not."""

    def left(self, node: OwnNode) -> Counter[str]:
        """What of Serve still runs on the node: `ingress` 1, `engine` 2, `proxy` 1."""


def drain(
    store: ControlStore,
    within_s: float,
    say: WriteLine,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Empties this pod's node; True when nothing of Serve is left on it, False when the time was over before.

    A control store that does not answer is asked again until the time is over: the head may be on its way back.
    """
    began = clock()
    node, marked, told_s = None, False, -TELL_EVERY_S
    silent = ""
    while (spent_s := clock() - began) < within_s:
        try:
            node = store.own_node()
            if node is None:
                say("this node has left the cluster; nothing is on it" if marked else "no Ray node lives in this pod")
                return True
            if node.is_head:
                say("this is the head: it runs no replica, and control can't be moved")
                return True
            if not marked:
                if refused := store.drain(node, within_s - spent_s):
                    say(f"Ray refused to drain this node: {refused}")
                    return False
                marked = True
                say(f"node {node.id[:8]} is draining: replacements start elsewhere, no new work comes here")
            left = store.left(node)
            if not left:
                say(f"empty after {spent_s:.0f} s")
                return True
            silent = ""
            if spent_s - told_s >= TELL_EVERY_S:
                told_s = spent_s
                say(f"after {spent_s:.0f} s still here: {_named(left)}")
        except Unreachable as error:
            if not silent:
                silent = str(error)
                say(f"Ray's head does not answer ({silent}); asking again")
        sleep(min(POLL_S, max(0.0, within_s - (clock() - began))))
    say(f"the {within_s:g} s are over; what is left here is cut off when the worker stops")
    return False


def _named(left: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in sorted(left.items()))


def head_address(environment: Mapping[str, str]) -> str | None:
    """Host and port of the control store, as KubeRay tells them to its containers; None: not such a container."""
    if address := environment.get("RAY_ADDRESS"):
        return address
    if host := environment.get("FQ_RAY_IP"):
        return f"{host}:{environment.get('RAY_PORT', GCS_PORT)}"
    return None


def drain_this_pod(within_s: float, say: WriteLine, environment: Mapping[str, str] = os.environ) -> None:
    """What the command does."""
    address = head_address(environment)
    if address is None:
        say("neither RAY_ADDRESS nor FQ_RAY_IP is set: this is no pod of a Ray cluster; nothing to drain")
        return
    drain(RayControlStore(address, environment.get("RAY_CLOUD_INSTANCE_ID", "")), within_s, say)


class RayControlStore:
    """The GCS of Ray 2.60, by the client that Serve's controller uses.

    `ray drain-node` (ray/scripts/scripts.py) makes the same call; it finds the node by starting a Ray worker on it,
    and a draining node would not let one start.
    """

    def __init__(self, address: str, instance: str) -> None:
        self._address = address
        self._instance = instance  # KubeRay: the pod's name
        self._connected: Any = None

    def own_node(self) -> OwnNode | None:
        import ray
        from ray.core.generated.gcs_pb2 import GcsNodeInfo

        own_address = "" if self._instance else ray.util.get_node_ip_address()
        nodes = self._ask(lambda client: client.get_all_node_info(timeout=CALL_TIMEOUT_S))
        for node_id, node in nodes.items():
            mine = node.instance_id == self._instance if self._instance else node.node_manager_address == own_address
            if mine and node.state == GcsNodeInfo.ALIVE:
                return OwnNode(node_id.hex(), node.is_head_node)
        return None

    def drain(self, node: OwnNode, deadline_s: float) -> str | None:
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        deadline_ms = int((time.time() + deadline_s) * 1000)
        # PREEMPTION: the pod goes, busy or not. The other reason, IDLE_TERMINATION, is refused by a busy node.
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why_not = self._ask(lambda client: client.drain_node(node.id, reason, REASON, deadline_ms))
        return None if accepted else str(why_not)

    def left(self, node: OwnNode) -> Counter[str]:
        async def alive(client: Any) -> Any:
            return await client.async_get_all_actor_info(actor_state_name="ALIVE", timeout=CALL_TIMEOUT_S)

        actors = self._ask(lambda client: asyncio.run(alive(client)))
        return Counter(
            part_of_serve(actor.name)
            for actor in actors.values()
            if actor.ray_namespace == SERVE_NAMESPACE and actor.address.node_id.hex() == node.id
        )

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its stub is incomplete
        from ray.exceptions import RayError, RpcError

        try:
            if self._connected is None:
                # Ray's client takes 40 s to find that nobody listens.
                host, _, port = self._address.rpartition(":")
                socket.create_connection((host, int(port)), CALL_TIMEOUT_S).close()
                self._connected = GcsClient(address=self._address)
            return call(self._connected)
        except (RayError, RpcError, OSError) as error:
            self._connected = None
            raise Unreachable((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


def part_of_serve(actor: str) -> str:
    """The deployment of a replica; `proxy` for what stands at the port. Names as Serve gives them.

    SERVE_REPLICA::glm#engine#b3x9, SERVE_PROXY_ACTOR-<node>
    """
    if actor.startswith("SERVE_REPLICA::"):
        return actor.split("#")[-2]
    return "proxy" if actor.startswith("SERVE_PROXY_ACTOR") else actor
