"""The autoscaler's container: Ray's process in it is started again, and a container that has ended costs the head."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chart.kuberay_pod import head_pod
from tests.chart.render import Object, profile, rayservice, render

pytestmark = pytest.mark.chart


def head(objects: list[Object]) -> dict[str, Object]:
    """The containers of the head's pod by name."""
    return {each["name"]: each for each in head_pod(rayservice(objects))["spec"]["containers"]}


def started(tmp_path: Path, ray: str) -> subprocess.Popen[str]:
    """The container's command with these words of bash in place of Ray's autoscaler."""
    container = head(profile("cluster"))["autoscaler"]
    script = tmp_path / "ray-autoscaler"
    script.write_text(f"#!/bin/bash\necho started\n{ray}\n")
    script.chmod(0o755)
    environment = os.environ | {"KUBERAY_GEN_AUTOSCALER_START_CMD": str(script), "ALIVE_FILE": str(tmp_path / "alive")}
    command = [*container["command"], *container["args"]]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_an_autoscaler_that_ends_is_started_again(tmp_path: Path):
    """Ray's process gives up after five errors; with autoscaler v2 nothing restarted its container."""
    container = started(tmp_path, "exit 3")
    assert container.stdout is not None
    lines = [container.stdout.readline().rstrip() for _ in range(3)]
    container.send_signal(signal.SIGTERM)
    assert container.wait(30) == 0
    assert lines == ["started", "The autoscaler ended with status 3. It is started again.", "started"]


def test_the_container_ends_at_once_when_its_pod_is_deleted(tmp_path: Path):
    container = started(tmp_path, "exec sleep 600")
    wait_until((tmp_path / "alive").exists)
    began = time.monotonic()
    container.send_signal(signal.SIGTERM)
    assert container.wait(30) == 0
    assert time.monotonic() - began < 20, "not only at the end of the grace period"


def test_the_heads_probe_fails_once_the_autoscalers_container_has_ended(tmp_path: Path):
    probe = head(profile("cluster"))["ray-head"]["livenessProbe"]["exec"]["command"]
    alive = tmp_path / "alive"
    healthz, _, age = probe[2].partition(" && ")
    assert healthz.endswith("http://localhost:52365/api/healthz")

    def passes() -> bool:
        command = ["bash", "-c", age.replace("/tmp/autoscaler-alive", str(alive))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert not passes()
    alive.touch()
    assert passes()
    os.utime(alive, (time.time() - 61, time.time() - 61))
    assert not passes()


def test_head_and_autoscaler_share_the_file():
    containers = head(profile("cluster"))
    (file,) = [each["value"] for each in containers["autoscaler"]["env"] if each["name"] == "ALIVE_FILE"]
    assert file in containers["ray-head"]["livenessProbe"]["exec"]["command"][2]
    for container in containers.values():
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        assert mounts["/tmp"] == "tmp"


def test_without_fault_tolerance_a_head_is_not_given_up_for_its_autoscaler():
    """A new head would restart all workers."""
    assert "httpGet" in head(render())["ray-head"]["livenessProbe"]
