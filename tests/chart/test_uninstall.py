"""What an uninstall leaves behind, and an install that comes before it has ended; helm asks a fake API server."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.chart import core
from tests.chart.api_server import api_server
from tests.chart.render import CHART, HELMS, NAMESPACE, RELEASE, Object, binary, of_kind, profile, render

pytestmark = pytest.mark.chart
NAME = f"{RELEASE}-glm-vision-serve"


def installed(helm: str, *objects: Object) -> tuple[int, str]:
    """Exit status and output of an install into a cluster that has these objects; nothing is sent to it."""
    with api_server(*objects) as address:
        command = [binary(helm), "install", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-apiserver", address]
        command += ["--dry-run=server", "--disable-openapi-validation"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def ray_service(**metadata: str) -> Object:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": NAME, "namespace": NAMESPACE, **metadata},
    }


@pytest.mark.parametrize("helm", HELMS)
def test_an_install_is_refused_while_the_earlier_service_is_being_deleted(helm: str):
    """The release said `deployed` and had no RayService: the old one was still being deleted and took it along."""
    status, output = installed(helm, ray_service(deletionTimestamp="2026-11-29T20:00:00Z"))
    assert status != 0
    assert f"The RayService {NAME} of an earlier release is being deleted since 2026-11-29T20:00:00Z" in output
    assert f"kubectl -n {NAMESPACE} wait --for=delete rayservice/{NAME}" in output


@pytest.mark.parametrize("helm", HELMS)
def test_an_install_where_there_is_no_service_is_not_refused(helm: str):
    status, output = installed(helm)
    assert status == 0, output


def hooks(objects: list[Object]) -> list[Object]:
    return [each for each in objects if (each["metadata"].get("annotations") or {}).get("helm.sh/hook") == "pre-delete"]


class Clusters(http.server.BaseHTTPRequestHandler):
    """The API server of a namespace in which a cluster of the release goes after some requests, and another stays."""

    left = 0
    asked: ClassVar[list[str]] = []

    def do_DELETE(self) -> None:
        self._respond(200 if not self._deleted() else 404, {})

    def do_GET(self) -> None:
        type(self).left -= 1
        names = ["other"] + ([NAME] if type(self).left > 0 else [])
        items = [{"metadata": {"name": f"{name}-x7k2p", "ownerReferences": [{"name": name}]}} for name in names]
        self._respond(200, {"items": items})

    def _deleted(self) -> bool:
        return any(each.startswith("DELETE") for each in self.asked)

    def _respond(self, status: int, content: Object) -> None:
        self.asked.append(f"{self.command} {self.path} {self.headers['Authorization']}")
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def run_job(folder: Path, left: int, time_limit_s: str) -> tuple[str, list[str]]:
    """The output of the Job's container and the requests that it sent, for a cluster that is listed `left` times."""
    (job,) = of_kind(hooks(profile("cluster")), "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    handler = type("Handler", (Clusters,), {"left": left, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "token").write_text("of-the-account\n")
    environment = {each["name"]: each["value"] for each in container["env"]}
    environment |= {"API_SERVER": f"http://127.0.0.1:{server.server_address[1]}", "ACCOUNT": str(folder)}
    environment["TIME_LIMIT_S"] = time_limit_s
    (program, *arguments) = [*container["command"], *container["args"]]
    assert program == "python"
    try:
        ended = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        server.shutdown()
        server.server_close()
    return ended.stdout, handler.asked


def test_the_service_is_removed_before_its_redis(tmp_path: Path):
    """KubeRay's cleanup needs Redis, its Secret and the ServiceAccount, which helm deletes before a RayService."""
    output, asked = run_job(tmp_path, left=2, time_limit_s="60")
    path = f"/apis/ray.io/v1/namespaces/{NAMESPACE}"
    assert asked[0] == f"DELETE {path}/rayservices/{NAME} Bearer of-the-account"
    assert asked[1] == f"GET {path}/rayclusters Bearer of-the-account"
    assert sum(each.startswith("GET") for each in asked) == 2, "until the cluster is gone"
    assert output == f"The RayService {NAME} and its clusters are removed.\n"


def test_an_uninstall_goes_on_when_the_time_is_over(tmp_path: Path):
    output, _ = run_job(tmp_path, left=1000, time_limit_s="1")
    assert output == f"Still there: {NAME}-x7k2p. The uninstall goes on without waiting longer.\n"


def test_the_job_may_delete_this_service_and_list_clusters_only():
    (role,) = of_kind(hooks(profile("cluster")), "Role")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayservices"], "resourceNames": [NAME], "verbs": ["delete"]},
        {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["list"]},
    ]


def test_the_jobs_pod_is_valid_and_nothing_of_it_stays():
    found = hooks(profile("cluster"))
    assert {each["kind"] for each in found} == {"NetworkPolicy", "ServiceAccount", "Role", "RoleBinding", "Job"}
    for each in found:
        policy = each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert policy == "before-hook-creation,hook-succeeded,hook-failed"
        if each["kind"] != "Job":
            assert each["metadata"]["annotations"]["helm.sh/hook-weight"] == "-1"
    (job,) = of_kind(found, "Job")
    template = job["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", **template["metadata"]},
        "spec": template["spec"],
    }
    for release in core.RELEASES:
        assert core.schema_problems(pod, release) == []


def test_without_a_redis_of_the_release_an_uninstall_needs_no_job():
    assert hooks(render()) == []
    assert hooks(render("ci/redis-external-values.yaml")) == []


def test_the_claim_of_redis_goes_with_the_release():
    (redis,) = of_kind(profile("cluster"), "StatefulSet")
    assert redis["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Delete", "whenScaled": "Retain"}


def test_the_job_has_the_labels_that_keep_a_mesh_out_of_the_test_pod() -> None:
    """With a sidecar that does not end, the Job would fail, and the uninstall with it."""
    outside = {"sidecar.istio.io/inject": "false"}
    disabled = {"linkerd.io/inject": "disabled"}
    objects = render(set={"faultTolerance.enabled": True, "test.podLabels": outside, "test.podAnnotations": disabled})
    (job,) = of_kind(hooks(objects), "Job")
    metadata = job["spec"]["template"]["metadata"]
    assert metadata["labels"].items() >= outside.items() | {("app.kubernetes.io/component", "uninstall")}
    assert metadata["annotations"] == disabled
