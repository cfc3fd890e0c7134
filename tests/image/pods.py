"""Pods run by podman as a kubelet would run them: own addresses, sized volumes, secrets, names of services."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chart import kubelet
from tests.chart.render import Object
from tests.image.containers import NETWORK, STATE, Containers

START_LIMIT_S = 120  # with init containers: ours may use a fifth of a core
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class Pod:
    """A running Pod: its name and address, and podman's name of its first container, Ray's."""

    containers: Containers
    name: str
    address: str
    ray: str

    def inside(self, script: str, timeout_s: float = 60) -> Any:
        return self.containers.inside(self.ray, script, timeout_s)

    def logs(self) -> str:
        return self.containers.logs(self.ray)


@contextmanager
def played(
    containers: Containers, pod: Object, secrets: dict[str, dict[str, str]], services: dict[str, str]
) -> Iterator[Pod]:
    """The Pod, started; stopped and taken away with its volumes at the end.

    `secrets` are name -> key -> value, `services` host name -> address.
    """
    name = pod["metadata"]["name"]
    runnable, volumes = _runnable(pod, secrets, services)
    try:
        for volume, size_bytes in volumes.items():
            _mount_memory(volume, size_bytes, pod["spec"]["securityContext"]["fsGroup"])
        yaml = json.dumps(runnable)  # JSON is YAML
        containers.podman("kube", "play", "--network", NETWORK, "-", stdin=yaml, timeout_s=START_LIMIT_S)
        ray = f"{name}-{pod['spec']['containers'][0]['name']}"
        infra = containers.inspect(ray)["HostConfig"]["NetworkMode"].removeprefix("container:")
        address = containers.inspect(infra)["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
        yield Pod(containers, name, address, ray)
    finally:
        containers.podman("pod", "rm", "--force", "--time", "0", "--ignore", name, check=False)
        for volume in volumes:
            subprocess.run(["umount", "--quiet", str(volume)], check=False, timeout=20)


def _runnable(
    pod: Object, secrets: dict[str, dict[str, str]], services: dict[str, str]
) -> tuple[Object, dict[Path, int]]:
    """The Pod with what podman lacks filled in, and the folders that are its volumes, with their sizes in bytes.

    podman 4.3 makes an emptyDir a folder of any size on the disk, also publishes the Pod's ports on this machine, knows
    neither secrets as Kubernetes writes them nor the Pod's namespace, and has no DNS for services.
    """
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    volumes: dict[Path, int] = {}
    for volume in spec["volumes"]:
        empty = volume.pop("emptyDir")
        folder = STATE / "volumes" / pod["metadata"]["name"] / volume["name"]
        volume["hostPath"] = {"path": str(folder), "type": "Directory"}
        volumes[folder] = min(in_bytes(empty.get("sizeLimit", "4Gi")), 4 * 2**30)
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        container.pop("ports", None)
        environment = kubelet.environment(container, pod["metadata"], lambda name, key: secrets[name][key])
        container["env"] = [{"name": name, "value": value} for name, value in environment.items()]
    spec["restartPolicy"] = "Never"  # podman would restart init containers that have done their work, too
    spec["hostAliases"] = [{"ip": address, "hostnames": [host]} for host, address in services.items()]
    return pod, volumes


def _mount_memory(folder: Path, size_bytes: int, group: int) -> None:
    """A volume of that size in memory, in the Pod's group as the kubelet's fsGroup makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["umount", "--quiet", str(folder)], check=False, timeout=20)  # of a run that was killed
    options = f"size={size_bytes},mode=2775,gid={group}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, timeout=20)


def in_bytes(amount: str) -> int:
    """A Kubernetes amount such as 512Mi in bytes."""
    found = re.fullmatch(r"(\d+)([KMG]i)?", amount)
    assert found, amount
    return int(found[1]) * _UNITS[found[2] or ""]
