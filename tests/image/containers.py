"""podman and buildah with a store, networks and settings of their own, so that nothing else is changed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/image"  # kept between runs: the base and every layer
STATE = Path("/run/glm-image-tests")  # locks and mounts: gone when the machine restarts, as podman expects
NETWORK = "glm-image-tests"


@dataclass(frozen=True)
class Containers:
    """The two commands, pointed at one store."""

    environment: dict[str, str] = field(repr=False)

    def podman(self, *arguments: str, timeout_s: float = 60, check: bool = True, stdin: str | None = None) -> str:
        """What podman printed; fails the test with podman's output where it fails."""
        ended = self.run("podman", *arguments, timeout_s=timeout_s, stdin=stdin)
        if check and ended.returncode:
            pytest.fail(f"podman {' '.join(arguments)}: {ended.stdout}{ended.stderr}")
        return ended.stdout

    def run(self, *command: str, timeout_s: float = 60, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def inspect(self, what: str) -> dict[str, Any]:
        """A container or an image, as podman describes it."""
        (only,) = json.loads(self.podman("inspect", what))
        assert isinstance(only, dict)
        return only

    def inside(self, container: str, script: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A shell script run in a running container, as its own user."""
        return self.run("podman", "exec", container, "bash", "-c", script, timeout_s=timeout_s)

    def logs(self, container: str) -> str:
        """Everything that the container has written, both streams."""
        ended = self.run("podman", "logs", container)
        return ended.stdout + ended.stderr

    @contextmanager
    def network(self) -> Iterator[None]:
        """A bridge on which each Pod and container has an address of its own; podman looks for a free range."""
        self.podman("network", "rm", "--force", NETWORK, check=False)  # of a run that was killed
        self.podman("network", "create", NETWORK)
        try:
            yield
        finally:
            self.podman("network", "rm", "--force", NETWORK, check=False)

    @contextmanager
    def started(self, image: str, *options: str, command: tuple[str, ...] = ()) -> Iterator[str]:
        """A container of the image in the background; gone at the end. Gives its name."""
        name = f"test-{os.urandom(4).hex()}"
        self.podman("run", "--detach", "--name", name, *options, image, *command)
        try:
            yield name
        finally:
            self.podman("rm", "--force", "--time", "5", "--volumes", name, check=False)


def of_this_machine() -> Containers:
    """podman set up for whatever runs the tests: also a machine without systemd, or with cgroups of both versions."""
    for name in ("podman", "buildah", "runc"):
        if shutil.which(name) is None:
            pytest.fail(f"no {name} here: run .ci/tools")
    if os.geteuid():
        pytest.fail("these tests build and run containers as root")
    files, processes = (resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    settings = CACHE / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "storage.conf").write_text(
        f"""[storage]
driver = "overlay"
graphroot = "{CACHE / "storage"}"
runroot = "{STATE / "storage"}"
"""
    )
    (settings / "containers.conf").write_text(
        f"""[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={_bounded(processes)}:{_bounded(processes)}"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{STATE / "libpod"}"
[network]
network_config_dir = "{CACHE / "networks"}"
"""
    )
    return Containers(
        {
            **os.environ,
            "CONTAINERS_CONF": str(settings / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(settings / "storage.conf"),
        }
    )


def _bounded(limit: int) -> int:
    return 8192 if limit == resource.RLIM_INFINITY else min(8192, limit)
