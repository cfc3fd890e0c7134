"""The Job before an upgrade that reads the model with its new settings; its command is run here, on real files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.settings import DEMO_MODEL
from tests.chart import core
from tests.chart.api_server import api_server
from tests.chart.render import CHART, NAMESPACE, RELEASE, ROOT, Object, binary, rayservice, render

pytestmark = pytest.mark.chart
ON_A_CLAIM = {"modelStorage.existingClaim": "models", "settings.model.path": "/models/GLM-4.6V-Flash"}


def jobs(before: dict[str, Any] | None, after: dict[str, Any]) -> list[Object]:
    """The Jobs of an upgrade to the values `after`, of a release that runs with `before` (None: nothing runs)."""
    running = []
    if before is not None:
        running = [rayservice(render(set=before))]
        running[0]["metadata"]["namespace"] = NAMESPACE
        owner = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}
        running[0]["metadata"]["annotations"] = owner
    with api_server(*running) as address:
        command = [binary("helm4"), "template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-apiserver", address]
        command += ["--is-upgrade", "--dry-run=server", "--disable-openapi-validation"]
        command += [part for key, value in after.items() for part in ("--set-json", f"{key}={json.dumps(value)}")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return [each for each in yaml.safe_load_all(ended.stdout) if each and each["kind"] == "Job"]


def test_other_settings_of_the_model_are_checked_before_the_upgrade():
    (job,) = jobs(ON_A_CLAIM, ON_A_CLAIM | {"settings.model.quantization": "nf4"})
    annotations = job["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "pre-upgrade"
    assert "hook-failed" in annotations["helm.sh/hook-output-log-policy"]
    assert "hook-failed" in annotations["helm.sh/hook-delete-policy"]
    assert job["spec"]["backoffLimit"] == 0


def test_the_check_has_the_labels_that_keep_a_mesh_out_of_the_test_pod():
    outside = {"sidecar.istio.io/inject": "false"}
    (job,) = jobs(ON_A_CLAIM, ON_A_CLAIM | {"settings.model.quantization": "nf4", "test.podLabels": outside})
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= outside.items() | {("app.kubernetes.io/component", "check")}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(ON_A_CLAIM, ON_A_CLAIM | {"stages.engine.targetKvUse": 0.5}, id="the same settings"),
        pytest.param(None, ON_A_CLAIM, id="nothing runs"),
        pytest.param({}, {"settings.model.path": "zai-org/GLM-4.6V-Flash"}, id="no volume"),
        pytest.param(ON_A_CLAIM, {**ON_A_CLAIM, "settings.model.path": "/x", "upgrade.check.enabled": False}, id="off"),
    ],
)
def test_what_needs_no_check_gets_none(before: dict[str, Any] | None, after: dict[str, Any]):
    assert jobs(before, after) == []


def test_the_pod_is_an_engines_without_its_gpu():
    more = {
        "extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/company"}],
        "workers.gpu.nodeSelector": {"card": "l4"},
        "upgrade.check.resources": {"limits": {"memory": "3Gi"}},
    }
    (job,) = jobs(ON_A_CLAIM, ON_A_CLAIM | more | {"settings.model.path": "/models/other"})
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"memory": "3Gi"}
    assert spec["nodeSelector"] == {"card": "l4"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert {"/models", "/etc/company", "/tmp"} <= {each["mountPath"] for each in container["volumeMounts"]}
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["GLM_MODEL__PATH"] == "/models/other"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "check"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "check", "namespace": NAMESPACE}, "spec": spec}
    for release in core.RELEASES:
        assert core.schema_problems(pod, release) == []


def run(job: Object) -> tuple[int, str]:
    """Exit status and output of the Job's container."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"] if each["name"].startswith("GLM_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        container["command"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_model_that_is_not_there_makes_the_upgrade_fail(tmp_path: Path):
    """With upgrade.strategy None such a setting took the running service down."""
    values = ON_A_CLAIM | {"settings.model.path": str(tmp_path / "no-such-model")}
    status, output = run(jobs(ON_A_CLAIM, values)[0])
    assert status == 1
    assert f"The model folder {tmp_path / 'no-such-model'} does not exist." in " ".join(output.split())


def test_a_model_that_is_complete_lets_the_upgrade_go_on(tmp_path: Path):
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    values = ON_A_CLAIM | {"settings.model.path": str(tmp_path / "model"), "settings.preprocess.max_images": 3}
    status, output = run(jobs(ON_A_CLAIM, values)[0])
    assert status == 0, output
    assert "this machine was not checked" in output
