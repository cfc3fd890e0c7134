"""A Ray cluster of several nodes on one machine, each with its own network, processes and /tmp.

A node stands for a pod: it has an address on a bridge, a process 1 that the kubelet would signal, its own /tmp and
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
from typing import Any, TypeVar

import psutil
import yaml

from tests.chart import kubelet, kuberay_pod
from tests.chart.render import NAMESPACE, Object
from tests.cluster.dashboard import Dashboard
from tests.cluster.namespaces import Namespaces, entered, init_of, private_namespaces, unshared
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HEAD_NAME = f"glm-head-svc.{NAMESPACE}.svc.cluster.local"  # as KubeRay names the head's service
SUBNET = "10.77.0"
HEAD_ADDRESS, REDIS_ADDRESS = f"{SUBNET}.4", f"{SUBNET}.5"
REDIS_PASSWORD = "in-a-secret"
TOKEN = "a" * 64
PORT = 8000
START_LIMIT_S = 90

Result = TypeVar("Result")


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

    def output(self) -> str:
        return (self.folder / "container.log").read_text(errors="replace")


class Cluster(Namespaces):
    """The namespaces, and the nodes in them; made by `running`."""

    def __init__(self, folder: Path, init: psutil.Process) -> None:
        super().__init__(init)
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.release: Object = {}
        self.addresses = 10
        self.workers = 0

    @property
    def hosts(self) -> Path:
        return self.folder / "hosts"

    # -- pods ---------------------------------------------------------------------------------

    def start(self, name: str, pod: Object, address: str = "", files: Mapping[str, str] | None = None) -> Node:
        """The pod's first container on an address of its own, with these files in its /tmp.

        Returns when its process 1 is there.
        """
        container = pod["spec"]["containers"][0]
        (command,) = container["args"]
        address = address or self.new_address()
        folder = self.folder / f"{name}-{address.rpartition('.')[2]}"
        folder.mkdir(exist_ok=True)
        for file, text in (files or {}).items():
            (folder / file).write_text(text)
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
            {_checkout_mount(folder)}
            mount --rbind {shlex.quote(str(folder))} /tmp
            cd /tmp
            exec bash -c -- {shlex.quote(command)}
        """
        metadata = {"name": name, "namespace": NAMESPACE, "labels": pod["metadata"]["labels"]}
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            **kubelet.environment(container, metadata, lambda _, key: TOKEN if key == "auth_token" else REDIS_PASSWORD),
        }
        in_pod = [*entered(self.init.pid), "ip", "netns", "exec", name, *unshared(setup)]
        with (folder / "container.log").open("ab") as output:
            process = subprocess.Popen(in_pod, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
        node = Node(name, address, folder, pod, environment, process, init_of(process, depth=2))
        self.nodes[name] = node
        return node

    def new_address(self) -> str:
        self.addresses += 1
        return f"{SUBNET}.{self.addresses}"

    def execute(self, node: Node, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """What `kubectl exec` or a preStop hook runs: in the pod's namespaces, with the container's environment."""
        in_pod = [*entered(node.init.pid), "--wd", *command]
        return subprocess.run(
            in_pod, capture_output=True, text=True, timeout=timeout_s, env=node.environment, check=False
        )

    def terminate(self, node: Node) -> str:
        """What the kubelet does with a deleted pod: its hook, SIGTERM to process 1, SIGKILL after its grace period.

        Returns the hook's output.
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

    # -- Ray, as KubeRay starts it ------------------------------------------------------------

    def install(self, release: Object, *, pods: Mapping[str, int] | None = None) -> None:
        """Starts the RayService as KubeRay does: Redis if it names one, head, workers, then Serve's applications.

        `pods` is the number of pods of each worker group; the chart's `replicas` unless given.
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

    def start_head(self, pod: Object | None = None, files: Mapping[str, str] | None = None) -> Node:
        """A head pod at the address of its Service; it takes over what Redis keeps of the head before it."""
        redis = self.release["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions", {}).get("redisAddress", "-:")
        names = {"localhost": "127.0.0.1", HEAD_NAME: HEAD_ADDRESS, redis.partition(":")[0]: REDIS_ADDRESS}
        self.hosts.write_text("".join(f"{number} {name}\n" for name, number in names.items()))
        node = self.start("head", pod or kuberay_pod.head_pod(self.release), HEAD_ADDRESS, files)
        self.until(lambda: self.api(lambda api: api.request("GET", "/api/version")).is_success, "the head's API", node)
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

    def api(self, use: Callable[[Dashboard], Result]) -> Result:
        """What this call of the head's dashboard returns."""
        return self.call(lambda: use(Dashboard(HEAD_ADDRESS, TOKEN)))

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Sends the configuration to Serve; again, as the operator does, if the head was not ready for it."""

        def accepted() -> bool:
            response = self.api(lambda api: api.deploy(config))
            assert response.status_code in (200, 500), response.text
            return response.status_code == 200

        self.until(accepted, "Serve accepts its configuration", self.nodes["head"], 60)

    def application(self) -> dict[str, Any]:
        """Our application as Serve describes it."""
        return self.api(Dashboard.application)

    def proxies_healthy(self) -> bool:
        """Whether Serve calls the proxy of every node healthy."""
        proxies = self.api(Dashboard.serve)["proxies"]
        return len(proxies) >= len(self.nodes) - ("redis" in self.nodes) and all(
            proxy["status"] == "HEALTHY" for proxy in proxies.values()
        )

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        """The running replicas of a deployment."""
        replicas = self.application()["deployments"][deployment]["replicas"]
        return [replica for replica in replicas if replica["state"] == "RUNNING"]

    def wait_until_running(self, limit_s: float = 120.0) -> float:
        """Waits for the application; returns the seconds that it took."""
        found: dict[str, Any] = {}

        def application_runs() -> bool:
            found.clear()
            found.update(self.application())
            assert found["status"] != "DEPLOY_FAILED", found
            return bool(found["status"] == "RUNNING")

        return self.until(application_runs, lambda: f"the application runs ({found})", limit_s=limit_s)

    def until(
        self,
        condition: Callable[[], bool],
        what: str | Callable[[], str],
        node: Node | None = None,
        limit_s: float = START_LIMIT_S,
    ) -> float:
        """Waits for the condition; fails with the node's output if it ends meanwhile or the time is over."""

        def described() -> str:
            output = f"\n{node.output()[-3000:]}" if node else ""
            return (what if isinstance(what, str) else what()) + output

        def holds() -> bool:
            assert node is None or node.process.poll() is None, f"{node.name} ended before: {described()}"
            return condition()

        return wait_until(holds, limit_s, described)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Empty namespaces with a bridge; everything started in them is ended with them."""
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    # gRPC asks for an IPv6 address too, which no hosts file has: a refusal at once is better than no answer.
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
    ) as init:
        cluster = Cluster(folder, init)
        try:
            yield cluster
        finally:
            cluster.threads.shutdown(wait=False, cancel_futures=True)


def _checkout_mount(folder: Path) -> str:
    """The shell command that keeps the checkout at its path if it is below /tmp, of which each node has its own."""
    if not ROOT.is_relative_to("/tmp"):
        return ":"
    below = shlex.quote(str(folder / ROOT.relative_to("/tmp")))
    return f"mkdir -p {below} && mount --bind {shlex.quote(str(ROOT))} {below}"
