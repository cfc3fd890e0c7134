"""A Ray cluster of several nodes on one machine: each with its own network, processes and /tmp.

A node is what a pod is to Ray: an address of its own on a bridge, process 1 that kubelet would signal, an own /tmp and
/dev/shm, and the command and environment that KubeRay gives it. Needs root and iproute2, no container runtime.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.chart import kuberay_pod
from tests.chart.render import NAMESPACE, Object
from tests.cluster.namespaces import Namespaces, init_of, private_namespaces

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HEAD_NAME = f"glm-head-svc.{NAMESPACE}.svc.cluster.local"  # as KubeRay names the head's service
SUBNET = "10.77.0"
HEAD_ADDRESS, REDIS_ADDRESS = f"{SUBNET}.4", f"{SUBNET}.5"
REDIS_PASSWORD = "in-a-secret"
TOKEN = "a" * 64
PORT = 8000
START_LIMIT_S = 90


@dataclass
class Node:
    """One pod: `process` starts it, `init` is its process 1 as seen from here."""

    name: str
    address: str
    folder: Path  # its /tmp
    pod: Object
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    init: psutil.Process

    @property
    def logs(self) -> Path:
        return max((self.folder / "ray").glob("session_2*")) / "logs"  # session_latest points into the pod's own /tmp

    @property
    def serves(self) -> bool:
        """Whether the serve Service has it among its endpoints: workers are, the head is not."""
        return self.pod["metadata"]["labels"].get("ray.io/serve") == "true"

    def said(self) -> str:
        return (self.folder / "container.log").read_text(errors="replace")


class Cluster(Namespaces):
    """The namespaces, and the nodes in them; use it with `running`."""

    def __init__(self, folder: Path, keeper: psutil.Process) -> None:
        super().__init__(keeper)
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.release: Object = {}
        self.addresses = 10
        self.workers = 0

    @property
    def hosts(self) -> Path:
        return self.folder / "hosts"

    # -- pods ---------------------------------------------------------------------------------

    def start(self, name: str, pod: Object, address: str = "") -> Node:
        """The pod's first container, on an address of its own; returns when its process 1 is there."""
        container = pod["spec"]["containers"][0]
        (command,) = container["args"]
        address = address or self.new_address()
        folder = self.folder / f"{name}-{address.rpartition('.')[2]}"
        folder.mkdir(exist_ok=True)
        veth = f"v{address.rpartition('.')[2]}"
        self.sh(
            f"""
            ip netns del {name} 2>/dev/null || true; ip link del {veth} 2>/dev/null || true
            ip netns add {name}
            ip link add {veth} type veth peer name eth0 netns {name}
            ip link set {veth} master pods up
            ip -n {name} link set lo up
            ip -n {name} addr add {address}/24 dev eth0
            ip -n {name} link set eth0 up
            ip -n {name} route add default via {SUBNET}.1
            """
        )
        setup = f"""
            mount --bind {shlex.quote(str(self.hosts))} /etc/hosts
            mount --bind {shlex.quote(str(self.folder / "resolv.conf"))} /etc/resolv.conf
            mount -t tmpfs -o size=4g tmpfs /dev/shm
            {_kept_visible(folder)}
            mount --rbind {shlex.quote(str(folder))} /tmp
            cd /tmp
            exec bash -c -- {shlex.quote(command)}
        """
        enter = ["nsenter", "-t", str(self.keeper.pid), "-m", "-n", "-p", "ip", "netns", "exec", name]
        contain = ["unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "bash", "-ec", setup]
        whole = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            **_environment(pod, container, name),
        }
        with (folder / "container.log").open("ab") as output:
            process = subprocess.Popen(
                [*enter, *contain], stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=whole
            )
        node = Node(name, address, folder, pod, whole, process, init_of(process, depth=2))
        self.nodes[name] = node
        return node

    def new_address(self) -> str:
        self.addresses += 1
        return f"{SUBNET}.{self.addresses}"

    def execute(self, node: Node, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """What `kubectl exec` or a preStop hook runs: in the pod's namespaces, with the container's environment."""
        enter = ["nsenter", "-t", str(node.init.pid), "-m", "-n", "-p", "--wd"]
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=timeout_s, env=node.environment, check=False
        )

    def terminate(self, node: Node) -> str:
        """What kubelet does with a pod that is deleted: its hook, SIGTERM to process 1, after its grace SIGKILL.

        Returns what the hook said.
        """
        spec = node.pod["spec"]
        limit = time.monotonic() + spec["terminationGracePeriodSeconds"]
        hook = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        run = self.execute(node, hook, spec["terminationGracePeriodSeconds"])
        node.init.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            node.process.wait(max(2.0, limit - time.monotonic()))
        self.kill(node)
        return run.stdout + run.stderr

    def kill(self, node: Node) -> None:
        """SIGKILL to process 1; the kernel kills all others of the pod with it."""
        if node.init.is_running():
            node.init.kill()
        node.process.wait(10)
        self.nodes.pop(node.name, None)
        self.sh(f"ip netns del {node.name}; ip link del v{node.address.rpartition('.')[2]} 2>/dev/null || true")

    def unplug(self, node: Node) -> None:
        """The pod's machine loses its power: no process of it says goodbye to anybody."""
        self.sh(f"ip link set v{node.address.rpartition('.')[2]} down")
        self.kill(node)

    # -- Ray, as KubeRay starts it ------------------------------------------------------------

    def install(self, release: Object, *, pods: Mapping[str, int] | None = None) -> None:
        """The RayService as KubeRay brings it up: Redis if it names one, head, workers, and then Serve's applications.

        `pods` of each worker group; those of the chart's `replicas` unless given.
        """
        self.release = release
        cluster = release["spec"]["rayClusterConfig"]
        if "gcsFaultToleranceOptions" in cluster:
            self.start_redis()
        self.start_head()
        for group in cluster["workerGroupSpecs"]:
            name = group["groupName"]
            for _ in range(pods[name] if pods else group["replicas"]):
                self.add_worker(name)
        self.deploy(yaml.safe_load(release["spec"]["serveConfigV2"]))

    def start_head(self) -> Node:
        """A head pod behind the one address of its Service; it takes up what Redis keeps of the one before."""
        redis = self.release["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions", {}).get("redisAddress", "-:")
        names = {"localhost": "127.0.0.1", HEAD_NAME: HEAD_ADDRESS, redis.partition(":")[0]: REDIS_ADDRESS}
        self.hosts.write_text("".join(f"{number} {name}\n" for name, number in names.items()))
        node = self.start("head", kuberay_pod.head_pod(self.release), HEAD_ADDRESS)
        self.until(lambda: self.api("GET", "/api/version").status_code == 200, "the head's API", node)
        return node

    def add_worker(self, group: str) -> Node:
        """One more pod of the group."""
        self.workers += 1
        return self.start(f"{group}-{self.workers}", kuberay_pod.worker_pod(self.release, group, HEAD_NAME))

    def start_redis(self) -> Node:
        command = f"exec redis-server --requirepass {REDIS_PASSWORD} --appendonly yes --dir /tmp --save ''"
        container = {"name": "redis", "command": ["bash", "-c", "--"], "args": [command], "env": []}
        return self.start("redis", {"metadata": {"labels": {}}, "spec": {"containers": [container]}}, REDIS_ADDRESS)

    # -- Serve, as KubeRay's operator talks to it ---------------------------------------------

    def api(self, method: str, path: str, body: Any = None, timeout_s: float = 10.0) -> httpx.Response:
        """A call to the dashboard on the head."""
        url = f"http://{self.nodes['head'].address}:8265{path}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return self.call(
            lambda: httpx.request(method, url, json=body, headers=headers, timeout=timeout_s, trust_env=False)
        )

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Hands the configuration to Serve; as the operator does, again if the head was not ready for it."""

        def taken() -> bool:
            response = self.api("PUT", "/api/serve/applications/", config, 60)
            assert response.status_code in (200, 500), response.text
            return response.status_code == 200

        self.until(taken, "Serve takes its configuration", self.nodes["head"], 60)

    def application(self) -> dict[str, Any]:
        """What Serve says of our application: status, message, deployments."""
        response = self.api("GET", "/api/serve/applications/", timeout_s=30)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()["applications"].get("glm", {"status": "NOT_THERE"})
        return found

    def doors_open(self) -> bool:
        """Whether Serve calls the proxy of every node healthy."""
        proxies = self.api("GET", "/api/serve/applications/", timeout_s=30).json()["proxies"]
        return len(proxies) >= len(self.nodes) - ("redis" in self.nodes) and all(
            proxy["status"] == "HEALTHY" for proxy in proxies.values()
        )

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        """The running replicas of a deployment."""
        replicas = self.application()["deployments"][deployment]["replicas"]
        return [replica for replica in replicas if replica["state"] == "RUNNING"]

    def wait_until_running(self, limit_s: float = 120.0) -> float:
        """Waits for the application; returns the seconds that it took."""
        started = time.monotonic()
        seen: dict[str, Any] = {}

        def running() -> bool:
            seen.clear()
            seen.update(self.application())
            assert seen["status"] != "DEPLOY_FAILED", seen
            return bool(seen["status"] == "RUNNING")

        self.until(running, lambda: f"the application ({seen})", limit_s=limit_s)
        return time.monotonic() - started

    def until(
        self,
        fact: Callable[[], bool],
        what: str | Callable[[], str],
        node: Node | None = None,
        limit_s: float = START_LIMIT_S,
    ) -> None:
        """Polls; fails with the node's own words when it is not so in time."""
        limit = time.monotonic() + limit_s
        while True:
            last = ""
            try:
                if fact():
                    return
            except (httpx.HTTPError, LookupError, ValueError) as error:
                last = f" ({error!r})"
            name = what if isinstance(what, str) else what()
            if node is not None and node.process.poll() is not None:
                raise AssertionError(f"{node.name} ended while {name} was waited for:\n{node.said()[-3000:]}")
            if time.monotonic() > limit:
                words = f"\n{node.said()[-3000:]}" if node else ""
                raise AssertionError(f"not within {limit_s:g} s: {name}{last}{words}")
            time.sleep(0.25)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Empty namespaces with a bridge; all that is started in them is gone at the end."""
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    # gRPC asks for an IPv6 address too, which no hosts file answers: refused at once is better than never answered.
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    with private_namespaces(
        f"""
        mount -t tmpfs tmpfs /run
        mkdir /run/netns
        ip link set lo up
        ip link add pods type bridge
        ip addr add {SUBNET}.1/24 dev pods
        ip link set pods up
        """
    ) as keeper:
        cluster = Cluster(folder, keeper)
        try:
            yield cluster
        finally:
            cluster.inside.shutdown(wait=False, cancel_futures=True)


def _kept_visible(folder: Path) -> str:
    """The checkout and its environment stay where they are, also below /tmp, of which each node has its own."""
    if not ROOT.is_relative_to("/tmp"):
        return ":"
    below = shlex.quote(str(folder / ROOT.relative_to("/tmp")))
    return f"mkdir -p {below} && mount --bind {shlex.quote(str(ROOT))} {below}"


def _environment(pod: Object, container: Object, name: str) -> dict[str, str]:
    """The container's environment as kubelet resolves it."""
    fields = {"metadata.name": name, "metadata.namespace": NAMESPACE}
    fields |= {f"metadata.labels['{label}']": value for label, value in pod["metadata"]["labels"].items()}
    environment = {}
    for variable in container["env"]:
        match variable:
            case {"value": value}:
                environment[variable["name"]] = value
            case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                environment[variable["name"]] = fields[path]
            case {"valueFrom": {"secretKeyRef": {"key": key}}}:
                environment[variable["name"]] = TOKEN if key == "auth_token" else REDIS_PASSWORD
            case _:
                raise AssertionError(f"{variable} is not understood here")
    return environment
