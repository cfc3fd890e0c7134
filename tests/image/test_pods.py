"""The chart's Pods as KubeRay would make them, run from the image: a head and a worker, one cluster, one question.

Without an API server there is no autoscaler beside the head (the cpu-demo profile has none), no operator (its request
to the head is sent here) and no kubelet (its probes and hooks are run here).
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import yaml

from tests.chart.kuberay_pod import groups, head_address, head_pod, worker_pod
from tests.chart.render import Object, rayservice, render
from tests.cluster.dashboard import APPLICATIONS, PORT, Dashboard
from tests.image.containers import Containers
from tests.image.pods import Pod, in_bytes, played
from tests.image.test_service import WAYBILL, ask, record_of
from tests.waiting import wait_until

TOKEN = "9f0c1f0e6a3c4d0b8a57"
START_LIMIT_S = 60
DEPLOY_LIMIT_S = 120
STOP_LIMIT_S = 45


@dataclass(frozen=True)
class HeadAndWorker:
    """The running Pods and what they were made of."""

    head: Pod
    worker: Pod
    head_pod: Object
    worker_pod: Object


@pytest.fixture(scope="module")
def chart(image: str) -> Object:
    repository, _, tag = image.rpartition(":")
    values = {"image.repository": repository, "image.tag": tag}
    return rayservice(render("values-cpu-demo.yaml", set=values))


@pytest.fixture(scope="module")
def cluster(containers: Containers, chart: Object) -> Iterator[HeadAndWorker]:
    """Both Pods up, the service deployed on them and ready."""
    (group,) = groups(chart)
    of_head, of_worker = head_pod(chart), worker_pod(chart, group)
    secrets = {secret: {"auth_token": TOKEN} for secret in secret_names(of_worker)}
    with played(containers, of_head, secrets, {}) as head:
        wait_until(lambda: http_probe(head, of_head, "readinessProbe"), START_LIMIT_S, head.logs)
        with played(containers, of_worker, secrets, {head_address(chart): head.address}) as worker:
            wait_until(lambda: http_probe(worker, of_worker, "livenessProbe"), START_LIMIT_S, worker.logs)
            dashboard = Dashboard(head.address, TOKEN)
            deployed = dashboard.deploy(yaml.safe_load(chart["spec"]["serveConfigV2"]))
            assert deployed.status_code == 200, deployed.text
            wait_until(
                lambda: exec_probe(worker, of_worker).returncode == 0, DEPLOY_LIMIT_S, lambda: str(dashboard.serve())
            )
            yield HeadAndWorker(head, worker, of_head, of_worker)


def secret_names(pod: Object) -> set[str]:
    environment = pod["spec"]["containers"][0]["env"]
    references = [variable.get("valueFrom", {}).get("secretKeyRef") for variable in environment]
    return {reference["name"] for reference in references if reference}


def http_probe(pod: Pod, specified: Object, probe: str) -> bool:
    """The kubelet's GET, from outside the Pod: any status from 200 to 399 is well."""
    get = specified["spec"]["containers"][0][probe]["httpGet"]
    try:
        return 200 <= httpx.get(f"http://{pod.address}:{get['port']}{get['path']}", timeout=5).status_code < 400
    except httpx.TransportError:
        return False


def exec_probe(pod: Pod, specified: Object) -> subprocess.CompletedProcess[str]:
    command = specified["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    return pod.containers.run("podman", "exec", pod.ray, *command)


def test_a_picture_question_is_answered_through_the_workers_port(cluster: HeadAndWorker):
    answer, _ = ask(f"http://{cluster.worker.address}:8000")
    assert WAYBILL in answer


def test_kuberays_probes_pass_with_token_authentication_on(cluster: HeadAndWorker):
    environment = {each["name"]: each.get("value") for each in cluster.worker_pod["spec"]["containers"][0]["env"]}
    assert environment["RAY_AUTH_MODE"] == "token"
    ready = exec_probe(cluster.worker, cluster.worker_pod)
    assert ready.returncode == 0, ready.stderr
    assert http_probe(cluster.worker, cluster.worker_pod, "livenessProbe")
    assert http_probe(cluster.head, cluster.head_pod, "readinessProbe")
    assert http_probe(cluster.head, cluster.head_pod, "livenessProbe")


def test_without_the_token_nothing_is_deployed(cluster: HeadAndWorker):
    url = f"http://{cluster.head.address}:{PORT}{APPLICATIONS}"
    assert httpx.put(url, json={"applications": []}, timeout=10).status_code in (401, 403)


def test_the_head_runs_no_replica(cluster: HeadAndWorker):
    processes = cluster.head.inside("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'").stdout
    assert "ServeReplica" not in processes
    assert "ServeController" in processes


@pytest.mark.parametrize("role", ["head", "worker"])
def test_the_security_context_is_real_inside(cluster: HeadAndWorker, role: str):
    pod: Pod = getattr(cluster, role)
    said = pod.inside("id -u; id -g; cat /proc/self/status; touch /here /opt/glm/here /root/here 2>&1").stdout
    assert said.splitlines()[:2] == ["10001", "10001"]
    status = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    assert {status[each] for each in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert said.count("Read-only file system") + said.count("Permission denied") == 3


@pytest.mark.parametrize("role", ["head", "worker"])
def test_shared_memory_has_the_size_that_the_chart_gives_it(cluster: HeadAndWorker, role: str):
    specified = getattr(cluster, f"{role}_pod")["spec"]
    (memory,) = [each["emptyDir"] for each in specified["volumes"] if each["emptyDir"].get("medium") == "Memory"]
    pod: Pod = getattr(cluster, role)
    size, used = pod.inside("df --block-size=1 --output=size,used /dev/shm | tail -1").stdout.split()
    assert int(size) == in_bytes(memory["sizeLimit"])
    assert int(used) < int(size)
    assert "/tmp instead" not in pod.logs()  # Ray's warning when shared memory is too small for its object store


def test_the_workers_log_shows_each_request_as_one_json_record(cluster: HeadAndWorker):
    """`kubectl logs` shows what the container writes, not Ray's files in it."""
    _, request_id = ask(f"http://{cluster.worker.address}:8000")
    wait_until(lambda: bool(record_of(cluster.worker.logs(), request_id)), 15, lambda: cluster.worker.logs()[-3000:])
    record = record_of(cluster.worker.logs(), request_id)
    assert (record["route"], record["status"], record["deployment"]) == ("/v1/chat/completions", 200, "glm_ingress")
    assert WAYBILL not in cluster.worker.logs()


def test_an_idle_worker_writes_little(cluster: HeadAndWorker):
    before = len(cluster.worker.logs().splitlines())
    time.sleep(15)
    written = cluster.worker.logs().splitlines()[before:]
    assert len(written) <= 5, "\n".join(written)


def test_after_its_prestop_hook_a_worker_ends_in_time(cluster: HeadAndWorker):
    """The last test of this cluster. No other worker can take over its replicas, so the hook gets little time."""
    hook = cluster.worker_pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    command = [*hook[: hook.index("--within")], "--within", "5"]
    drained = cluster.worker.inside(shlex.join(command))
    assert drained.returncode == 0, drained.stdout + drained.stderr
    started = time.monotonic()
    cluster.worker.containers.podman("stop", "--time", str(2 * STOP_LIMIT_S), cluster.worker.ray, timeout_s=120)
    assert time.monotonic() - started < STOP_LIMIT_S, json.dumps(cluster.worker.logs()[-2000:])
