"""A Ray cluster whose autoscaler adds and removes nodes: the nodes are processes here, all else is real.

Ray's autoscaler (v2, as KubeRay runs it) starts a raylet where KubeRay would start a pod, by the provider that Ray's
own tests use. Everything runs in namespaces of its own: no port clashes, and whatever was started ends with them. The
service's port and Ray's dashboard are reached through sockets in a folder, which a network namespace does not hide.
All nodes share one address, so there is one proxy, on the head: two would ask for the same ports.
Needs root (`unshare`) and iproute2.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.ray_flags import CLUSTER

ROOT = Path(__file__).parents[2]
HEAD = "f" * 51 + "00000"  # the provider's own name for the head
START_LIMIT_S = 90
OBJECT_STORE_BYTES = 2**28
PORTS = {"service": 8000, "dashboard": 8265}


@dataclass(frozen=True)
class Group:
    """A worker group as the chart has it: what one node offers, and how many there may be."""

    resources: Mapping[str, float]
    most: int
    least: int = 0


@dataclass(frozen=True)
class Cluster:
    """A running head; nodes come and go by themselves."""

    folder: Path
    dashboard: httpx.Client

    def transport(self) -> httpx.AsyncHTTPTransport:
        """The way to the service, for a client of its own (`base_url` is http://service)."""
        return httpx.AsyncHTTPTransport(
            uds=str(self.folder / "service.sock"), limits=httpx.Limits(max_connections=None)
        )

    def deploy(self, config: Mapping[str, Any]) -> None:
        """What KubeRay's operator does with `serveConfigV2`."""
        response = self.dashboard.put("/api/serve/applications/", json=config)
        assert response.is_success, response.text

    def application(self) -> dict[str, Any]:
        """Serve's word on our application: status, message, deployments and their replicas."""
        response = self.dashboard.get("/api/serve/applications/")
        response.raise_for_status()
        application: dict[str, Any] = response.json()["applications"]["glm"]
        return application

    def nodes(self) -> dict[str, str]:
        """The group of each living worker node, by the node's id."""
        response = self.dashboard.get("/api/v0/nodes", params={"detail": True, "limit": 100})
        response.raise_for_status()
        found = response.json()["data"]["result"]["result"]
        alive = [node for node in found if node["state"] == "ALIVE" and not node["is_head_node"]]
        return {node["node_id"]: node["labels"]["ray.io/node-group"] for node in alive}

    def until(self, fact: Callable[[], bool], what: str, limit_s: float) -> None:
        """Waits for it; fails the test with Serve's word if it does not come true in time."""
        started = time.monotonic()
        while True:
            with suppress(httpx.HTTPError, KeyError):
                if fact():
                    return
            if time.monotonic() - started > limit_s:
                pytest.fail(f"not within {limit_s:g} s: {what}\n{self.application()}")
            time.sleep(0.25)


@contextmanager
def cluster(folder: Path, groups: Mapping[str, Group], idle_timeout_s: float = 5.0) -> Iterator[Cluster]:
    """A head without CPUs or GPUs, and an autoscaler that may start nodes of these groups. The folder is empty."""
    (folder / "autoscaler.json").write_text(json.dumps(_autoscaler(groups, idle_timeout_s)))
    (folder / "ray").mkdir()
    # What Ray and Serve keep under fixed names in /tmp is this cluster's alone.
    setup = f"""
        ip link set lo up
        mkdir -p /tmp/ray /tmp/haproxy-serve
        mount --bind {shlex.quote(str(folder / "ray"))} /tmp/ray
        mount -t tmpfs none /tmp/haproxy-serve
        ray start --head --port=6379 --num-cpus=0 --num-gpus=0 --object-store-memory={OBJECT_STORE_BYTES} \
            --dashboard-host=127.0.0.1 --autoscaling-config={shlex.quote(str(folder / "autoscaler.json"))}
        python -m tests.cluster.fake_nodes {shlex.quote(str(folder))}
    """
    with (folder / "cluster.log").open("w") as output:
        process = subprocess.Popen(
            ["unshare", "-m", "-n", "-p", "-f", "--mount-proc", "--kill-child", "bash", "-ec", setup],
            stdin=subprocess.PIPE,  # held open by this process alone: when it ends, the relay and all else do
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=_environment(),
        )
    transport = httpx.HTTPTransport(uds=str(folder / "dashboard.sock"))
    try:
        with httpx.Client(transport=transport, base_url="http://dashboard", timeout=30) as dashboard:
            _wait_until_up(dashboard, process, folder / "cluster.log")
            yield Cluster(folder, dashboard)
    finally:
        process.kill()  # and the kernel kills all processes of the namespace
        process.wait(10)


def _autoscaler(groups: Mapping[str, Group], idle_timeout_s: float) -> dict[str, Any]:
    """The configuration that KubeRay's autoscaler would make of a RayCluster, for Ray's provider of fake nodes."""
    types = {
        name: {
            "resources": {**group.resources, "object_store_memory": OBJECT_STORE_BYTES},
            "labels": {"ray.io/node-group": name},
            "node_config": {},
            "min_workers": group.least,
            "max_workers": group.most,
        }
        for name, group in groups.items()
    }
    head = {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    return {
        "cluster_name": "fake-nodes",
        "max_workers": sum(group.most for group in groups.values()),
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": idle_timeout_s / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": HEAD,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {"ray.head.default": head, **types},
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _environment() -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLM_"))},
        **CLUSTER,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",  # nobody else is in this network
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }


def _wait_until_up(dashboard: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < limit:
        with suppress(httpx.HTTPError):
            if dashboard.get("/api/version").is_success:
                return
        time.sleep(0.2)
    pytest.fail(f"the head did not come up:\n{log.read_text()}")


# -- inside the namespaces -----------------------------------------------------------------------


async def relay(folder: Path) -> None:
    """Hands what comes to the sockets in the folder to the ports, until the standard input is closed."""
    for name, port in PORTS.items():
        await asyncio.start_unix_server(_to(port), folder / f"{name}.sock")
    await asyncio.to_thread(sys.stdin.read)


def _to(port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        ways = (_copy(reader, there_writer), _copy(there_reader, writer))
        await asyncio.gather(*ways)

    return connected


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(relay(Path(sys.argv[1])))
