"""A cluster whose autoscaler adds and removes nodes: the nodes are processes in the head's pod, all else is real.

Ray's autoscaler (v2, as KubeRay runs it) starts a raylet where KubeRay would start a pod, by the provider that Ray's
own tests use. All nodes share the head's address, so there is one proxy, on the head: two would need the same ports.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from tests.chart import kuberay_pod
from tests.chart.render import Object
from tests.cluster.dashboard import Dashboard
from tests.cluster.nodes import Cluster
from tests.cluster.release import release, serve_config

HEAD_ID = "f" * 51 + "00000"  # the provider's own id of the head
OBJECT_STORE_BYTES = 2**28
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
# Load is reported, averaged and acted on sooner than in the chart; nothing else of the policy is changed.
DELAYS = {"metrics_interval_s": 1, "look_back_period_s": 4, "upscale_delay_s": 2, "downscale_delay_s": 4}
DELAYS_TO_ZERO = {"downscale_to_zero_delay_s": 4}
WATCH_PERIOD_S = 0.5


def autoscaled_release(slots: int) -> Object:
    """The chart's cluster profile, with so many slots in each engine."""
    values = {"settings.model.path": "", "settings.engine.max_slots": slots, "faultTolerance.enabled": False}
    return release("cluster", values)


def start_autoscaled(cluster: Cluster, release: Object, most: int, config: dict[str, Any]) -> None:
    """Starts a head whose autoscaler may start up to `most` nodes of each worker group; returns when Serve runs."""
    cluster.release = release
    pod = kuberay_pod.head_pod(release)
    pod["metadata"]["labels"]["ray.io/serve"] = "true"  # as the controller sets it when the head's proxy answers
    container = pod["spec"]["containers"][0]
    (command,) = container["args"]
    assert "--no-monitor" in command, "KubeRay runs the autoscaler in a container beside the head."
    container["args"] = [command.replace("--no-monitor", "--autoscaling-config=/tmp/autoscaler.json")]
    container["env"] = [each for each in container["env"] if each["name"] not in ENVIRONMENT]
    container["env"] += [{"name": name, "value": value} for name, value in ENVIRONMENT.items()]
    cluster.start_head(pod, {"autoscaler.json": json.dumps(_provider(release, most))})
    cluster.deploy(config)
    cluster.wait_until_running()


def autoscaling_config(release: Object, least: int, most: int) -> dict[str, Any]:
    """The chart's serve configuration with these bounds of the engine, one replica of the others, and short delays."""
    config = serve_config(release)
    config["proxy_location"] = "HeadOnly"
    (application,) = config["applications"]
    for deployment in application["deployments"]:
        scaling = deployment["autoscaling_config"]
        scaling.pop("initial_replicas", None)
        scaling.update(DELAYS, min_replicas=1, max_replicas=1)
        if deployment["name"] == "engine":
            scaling.update(DELAYS_TO_ZERO if least == 0 else {}, min_replicas=least, max_replicas=most)
    return config


def _provider(release: Object, most: int) -> dict[str, Any]:
    """The configuration that KubeRay's autoscaler would make of the RayService, for Ray's provider of fake nodes."""
    groups = release["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    types = {
        group["groupName"]: {
            "resources": {
                "CPU": float(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]),
                **{name: float(amount) for name, amount in group["resources"].items()},
                "object_store_memory": OBJECT_STORE_BYTES,
            },
            "labels": {"ray.io/node-group": group["groupName"]},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for group in groups
    }
    head = {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands")
    commands = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    return {
        "cluster_name": "fake-nodes",
        "max_workers": most * len(groups),
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 5 / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {"ray.head.default": head, **types},
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in (*lists, *commands)},
    }


@dataclass(frozen=True)
class Snapshot:
    """The cluster at one moment of the monotonic clock."""

    at: float
    clients: int
    replicas: int  # of the engine, running
    target: int  # of the engine, wanted by the policy
    nodes: dict[str, int]  # of each worker group
    misplaced: list[str]  # replicas of the CPU stages on nodes of another group


class Watch(threading.Thread):
    """Takes a snapshot every half second while it is open."""

    def __init__(self, cluster: Cluster, clients: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.clients = clients
        self.snapshots: list[Snapshot] = []
        self._closed = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self.join(60)

    def run(self) -> None:
        while not self._closed.wait(WATCH_PERIOD_S):
            try:
                self.snapshots.append(self._snapshot())
            except (httpx.HTTPError, KeyError):
                continue  # the dashboard is busy; the next look is soon

    def until(self, replicas: int, gpu_nodes: int | None = None, limit_s: float = 90.0) -> None:
        """Waits for so many running engines (and GPU nodes)."""
        self.cluster.until(
            lambda: (
                self.snapshots[-1].replicas == replicas and gpu_nodes in (None, self.snapshots[-1].nodes.get("gpu", 0))
            ),
            lambda: f"{replicas} replicas and {gpu_nodes} GPU nodes: {self.snapshots[-1:]}",
            limit_s=limit_s,
        )

    def _snapshot(self) -> Snapshot:
        deployments = self.cluster.application()["deployments"]
        nodes = self.cluster.api(Dashboard.worker_nodes)
        running = [each for each in deployments["engine"]["replicas"] if each["state"] == "RUNNING"]
        misplaced = [
            f"{stage} on {nodes[replica['node_id']]}"
            for stage in ("ingress", "preprocess")
            for replica in deployments[stage]["replicas"]
            if nodes.get(replica["node_id"], "cpu") != "cpu"
        ]
        target = deployments["engine"]["target_num_replicas"]
        return Snapshot(
            time.monotonic(), self.clients(), len(running), target, dict(Counter(nodes.values())), misplaced
        )
