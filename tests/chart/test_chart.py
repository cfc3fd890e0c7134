"""The chart as a whole: the same from helm 3 and 4, in step with the code, and what it says to its reader."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app import __version__
from serve_app.ray_flags import CLUSTER
from serve_app.settings import Settings
from tests.chart.render import (
    CHART,
    HELMS,
    PROFILES,
    RELEASE,
    ROOT,
    Object,
    binary,
    every_value_set,
    name_of,
    of_kind,
    profile,
    rayservice,
    render,
)

pytestmark = pytest.mark.chart
VALUE_SETS = pytest.mark.parametrize("files", every_value_set())
HEAD_PORTS = {
    "gcs-server": 6379,
    "dashboard": 8265,
    "client": 10001,
    "serve": 8000,
    "metrics": 8080,
    "as-metrics": 44217,
    "dash-metrics": 44227,
}


def cluster(objects: list[Object]) -> Any:
    return rayservice(objects)["spec"]["rayClusterConfig"]


def head(objects: list[Object]) -> Any:
    return cluster(objects)["headGroupSpec"]["template"]["spec"]


def workers(objects: list[Object]) -> list[Any]:
    return [group["template"]["spec"] for group in cluster(objects)["workerGroupSpecs"]]


def without_random_passwords(objects: list[Object]) -> list[Object]:
    return [{**each, "data": sorted(each["data"])} if each["kind"] == "Secret" else each for each in objects]


# -- helm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("helm", HELMS)
@VALUE_SETS
def test_lint_reports_nothing(files: tuple[Path, ...], helm: str) -> None:
    values = [part for file in files for part in ("--values", str(file))]
    run = subprocess.run([binary(helm), "lint", "--strict", CHART, *values], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout
    assert "[WARNING]" not in run.stdout


@VALUE_SETS
def test_helm_3_and_helm_4_write_the_same_objects(files: tuple[Path, ...]) -> None:
    old, new = (without_random_passwords(render(*files, helm=helm)) for helm in HELMS)
    assert list(map(name_of, old)) == list(map(name_of, new))
    assert old == new


@VALUE_SETS
def test_every_object_is_named_after_the_release_and_labelled(files: tuple[Path, ...]) -> None:
    objects = render(*files)
    assert len({name_of(each) for each in objects}) == len(objects)
    for each in objects:
        assert each["metadata"]["name"].startswith(f"{RELEASE}-glm-vision-serve"), name_of(each)
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE, name_of(each)
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "glm-vision-serve", name_of(each)


def test_every_template_is_reached_by_some_value_set() -> None:
    reached: set[str] = set()
    for parameter in every_value_set():
        (files,) = parameter.values
        values = [part for file in files for part in ("--values", str(file))]
        run = subprocess.run([binary("helm4"), "template", CHART, *values], capture_output=True, text=True, timeout=60)
        reached |= set(re.findall(r"^# Source: glm-vision-serve/(\S+)", run.stdout, flags=re.MULTILINE))
    written = {str(file.relative_to(CHART)) for file in (CHART / "templates").rglob("*.yaml")}
    # Rendered only in an upgrade of what runs in a cluster: tests/chart/test_settings_check.py.
    assert reached == written - {"templates/settings-check.yaml"}


def test_a_package_of_the_chart_holds_what_it_renders_and_no_generator(tmp_path: Path) -> None:
    subprocess.run([binary("helm4"), "package", CHART, "--destination", tmp_path], check=True, timeout=60)
    (package,) = tmp_path.glob("*.tgz")
    listed = subprocess.run(["tar", "tzf", package], capture_output=True, text=True, check=True).stdout
    assert "glm-vision-serve/values-cluster.yaml" in listed
    assert "glm-vision-serve/files/label.jpg" in listed
    assert "generate/" not in listed
    assert "/ci/" not in listed


# -- in step with the code ---------------------------------------------------------------------------


def test_generated_files_are_what_the_code_says() -> None:
    run = subprocess.run([sys.executable, CHART / "generate", "--check"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_generated_file_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "helm"
    subprocess.run(["cp", "-r", CHART, copy], check=True)
    (copy / "files/ray-env.json").write_text("{}\n")
    run = subprocess.run([sys.executable, copy / "generate", "--check"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "files/ray-env.json is out of date" in run.stdout


def test_chart_image_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert head(render())["containers"][0]["image"] == f"glm-vision-serve:{__version__}-cpu"


def test_the_ray_version_is_the_locked_one() -> None:
    locked = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE))
    assert cluster(render())["rayVersion"] == locked["ray"]


@pytest.mark.parametrize("name", PROFILES)
def test_every_ray_container_has_the_environment_that_a_cluster_needs(name: str) -> None:
    objects = profile(name)
    for pod in (head(objects), *workers(objects)):
        environment = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        assert environment.items() >= CLUSTER.items()


def test_defaults_that_the_chart_derives_from_are_the_package_s() -> None:
    defaults = json.loads((CHART / "files/settings.json").read_text())
    assert Settings.model_validate(defaults) == Settings()


# -- pods ---------------------------------------------------------------------------------------------


def test_the_head_has_the_ports_that_kuberay_and_prometheus_look_for() -> None:
    assert {port["name"]: port["containerPort"] for port in head(render())["containers"][0]["ports"]} == HEAD_PORTS


def test_ports_follow_the_settings_everywhere() -> None:
    objects = render("ci/gateway-route-values.yaml")
    for pod in (head(objects), *workers(objects)):
        ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
        assert (ports["serve"], ports["metrics"]) == (9000, 9080)
    spec = cluster(objects)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["rayStartParams"]["metrics-export-port"] == "9080"
    (route,) = of_kind(objects, "HTTPRoute")
    assert route["spec"]["rules"][0]["backendRefs"] == [{"name": "glm-glm-vision-serve-serve-svc", "port": 9000}]
    allowed = {port["port"] for policy in of_kind(objects, "NetworkPolicy") for port in ingress_ports(policy)}
    assert {9000, 9080} <= allowed
    assert not {8000, 8080} & allowed


def ingress_ports(policy: Object) -> list[Any]:
    return [port for rule in policy["spec"].get("ingress", []) for port in rule.get("ports", [])]


@pytest.mark.parametrize("name", PROFILES)
def test_the_head_runs_no_replica_and_serves_no_request(name: str) -> None:
    spec = rayservice(profile(name))["spec"]
    start = spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]
    assert (start["num-cpus"], start["num-gpus"]) == ("0", "0")
    assert spec["excludeHeadPodFromServeSvc"] is True


def test_kuberay_s_own_probes_are_not_overridden() -> None:
    for pod in (head(render()), *workers(render())):
        assert not {"readinessProbe", "livenessProbe", "startupProbe"} & set(pod["containers"][0])


def test_kuberay_s_head_service_finds_the_head() -> None:
    """It selects app.kubernetes.io/name=kuberay, whatever the pod template says (KubeRay 1.7, service.go)."""
    labels = cluster(render())["headGroupSpec"]["template"]["metadata"]["labels"]
    assert "app.kubernetes.io/name" not in labels


def test_only_a_head_with_an_autoscaler_gets_a_token_of_the_api_server() -> None:
    assert head(render())["automountServiceAccountToken"] is True
    assert head(render("ci/everything-off-values.yaml"))["automountServiceAccountToken"] is False
    for objects in (render("values-cluster.yaml"), render("ci/everything-off-values.yaml")):
        assert not any(pod["automountServiceAccountToken"] for pod in workers(objects))
        for each in of_kind(objects, "ServiceAccount"):
            assert each["automountServiceAccountToken"] is False


def test_the_autoscaler_is_version_2_and_its_pods_are_not_restarted() -> None:
    objects = render()
    assert cluster(objects)["autoscalerOptions"]["version"] == "v2"
    assert {pod["restartPolicy"] for pod in (head(objects), *workers(objects))} == {"Never"}


def test_without_the_autoscaler_pods_are_restarted_and_their_number_is_fixed() -> None:
    objects = render("values-single-24g.yaml", set={"workers.gpu.replicas.max": 5})
    assert not any("restartPolicy" in pod for pod in (head(objects), *workers(objects)))
    (group,) = cluster(objects)["workerGroupSpecs"]
    assert [group["minReplicas"], group["replicas"], group["maxReplicas"]] == [1, 1, 1]
    assert "idleTimeoutSeconds" not in group  # KubeRay refuses it without autoscaler v2
    assert "autoscalerOptions" not in cluster(objects)


def test_ray_s_ports_require_a_token_by_default() -> None:
    assert cluster(render())["authOptions"] == {"mode": "token"}
    off = render("ci/everything-off-values.yaml")
    assert "authOptions" not in cluster(off)
    for pod in (head(off), *workers(off)):
        assert {"name": "RAY_AUTH_MODE", "value": "disabled"} in pod["containers"][0]["env"]


def test_a_digest_names_the_image_of_every_pod() -> None:
    objects = render("ci/existing-claim-values.yaml")
    pods = [head(objects), *workers(objects), *(pod["spec"] for pod in of_kind(objects, "Pod"))]
    images = {pod["containers"][0]["image"] for pod in pods}
    assert images == {f"registry.example.com/glm-vision-serve@sha256:{'0' * 64}"}
    assert all(pod["imagePullSecrets"] == [{"name": "registry-login"}] for pod in pods)


def test_only_pods_with_a_gpu_pull_the_large_image() -> None:
    objects = render()
    images = {group["groupName"]: group["template"]["spec"] for group in cluster(objects)["workerGroupSpecs"]}
    assert images["gpu"]["containers"][0]["image"].endswith("-gpu")
    assert images["cpu"]["containers"][0]["image"].endswith("-cpu")
    assert head(objects)["containers"][0]["image"].endswith("-cpu")


# -- the service's life -----------------------------------------------------------------------------


def test_upgrades_are_done_in_three_ways() -> None:
    assert rayservice(render())["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
    assert rayservice(profile("single-24g"))["spec"]["upgradeStrategy"] == {"type": "None"}
    assert rayservice(render("ci/incremental-upgrade-values.yaml"))["spec"]["upgradeStrategy"] == {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "gatewayClassName": "istio",
            "stepSizePercent": 10,
            "intervalSeconds": 60,
            "maxSurgePercent": 50,
        },
    }


def test_kuberay_has_a_deadline_only_where_it_is_set() -> None:
    assert "annotations" not in rayservice(render())["metadata"]
    annotations = rayservice(render("ci/incremental-upgrade-values.yaml"))["metadata"]["annotations"]
    assert annotations == {"ray.io/initializing-timeout": "90m"}


def test_an_upgrade_of_the_chart_alone_changes_no_pod() -> None:
    """KubeRay starts a second cluster for any change of a pod template."""
    for group in (cluster(render())["headGroupSpec"], *cluster(render())["workerGroupSpecs"]):
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(group["template"]["metadata"]["labels"])


def test_the_claim_of_the_model_outlives_the_release() -> None:
    (claim,) = of_kind(profile("single-24g"), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
