"""A value that is null, as a section whose lines are all comments, is as if it were not there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.render import CHART, HELMS, NAMESPACE, Object, binary, of_kind, rayservice, refusal, render
from tests.chart.test_values import DEFAULTS

pytestmark = pytest.mark.chart
# Everything that has a switch is on, so that each default is read.
ALL_ON: dict[str, Any] = {
    "ingress.enabled": True,
    "gateway": {"enabled": True, "parentRefs": [{"name": "public"}]},
    "faultTolerance": {"enabled": True, "passwordSecret": {"name": "redis"}},
    "modelStorage": {"create": True, "fetch": {"enabled": True, "image": "rclone:1"}},
    "monitoring.podMonitor.enabled": True,
    "monitoring.prometheusRule.enabled": True,
    "monitoring.dashboards.enabled": True,
}
SECTIONS = sorted(name for name, value in DEFAULTS.items() if isinstance(value, dict) and name != "workers")
# Emptied by null, as Helm means it: OpenShift chooses users.
EMPTY = {"podSecurityContext"}
SCALARS = {
    "image.tag": None,
    "image.pullPolicy": None,
    "auth.keysSecret": None,
    "auth.anonymous": None,
    "stages.engine.gpus": None,
    "stages.ingress.cpus": None,
    "head.sharedMemory": None,
    "head.temporaryStorage": None,
    "head.resources": None,
    "modelStorage.accessModes": None,
    "modelStorage.size": None,
    "upgrade.strategy": None,
    "autoscaler.upscalingMode": None,
    "faultTolerance.passwordSecret.key": None,
    "redis.persistence": None,
    "networkPolicy.dns": None,
    "networkPolicy.dnsPorts": None,
    "monitoring.podMonitor.interval": None,
    "monitoring.prometheusRule.vramFraction": None,
    "test.timeoutSeconds": None,
}
WITHOUT_DEFAULT = {
    "settings.model": None,
    "global": {"imageRegistry": None, "imagePullSecrets": None},
    "head": {"image": None, "lifecycle": None, "extraVolumes": None, "schedulerName": None},
    "workers.gpu": {"image": {"tag": None}, "priority": None, "hostAliases": None, "suspend": None},
    "redis": {"affinity": None, "podLabels": None},
    "test.dnsConfig": None,
}


def on_without(section: str) -> dict[str, Any]:
    return {path: value for path, value in ALL_ON.items() if path.partition(".")[0] != section}


@pytest.mark.parametrize("section", [each for each in SECTIONS if each not in EMPTY])
def test_a_section_that_is_null_has_its_defaults(section: str) -> None:
    on = on_without(section)
    assert render(set={**on, section: None}) == render(set=on)


@pytest.mark.parametrize("helm", HELMS)
def test_single_values_that_are_null_have_their_defaults(helm: str) -> None:
    # --set-json of a list or an object that ALL_ON sets too would come before it.
    on = {path: value for path, value in ALL_ON.items() if path != "modelStorage"}
    on |= {"modelStorage.create": True}
    assert render(helm=helm, set=on | SCALARS) == render(helm=helm, set=on)


@pytest.mark.parametrize("helm", HELMS)
def test_null_for_a_value_without_a_default_changes_nothing(helm: str) -> None:
    assert render(helm=helm, set=WITHOUT_DEFAULT) == render(helm=helm)


def test_lists_and_objects_of_kubernetes_that_are_null_are_empty() -> None:
    emptied = {
        "podSecurityContext": None,
        "head.podAnnotations": None,
        "workers.gpu.tolerations": None,
        "networkPolicy.egress": None,
        "networkPolicy.monitors": None,
        "ingress.annotations": None,
        "redis.resources": None,
        "monitoring.podMonitor.labels": None,
    }
    objects = render(set=ALL_ON | emptied)
    cluster = rayservice(objects)["spec"]["rayClusterConfig"]
    head = cluster["headGroupSpec"]["template"]
    assert not head["spec"]["securityContext"]
    assert "annotations" not in head["metadata"]
    (gpu,) = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu"]
    assert "tolerations" not in gpu["template"]["spec"]
    policies = {each["metadata"]["name"].rpartition("-")[2] for each in of_kind(objects, "NetworkPolicy")}
    assert not policies & {"outside", "metrics"}
    (redis,) = of_kind(objects, "StatefulSet")
    assert redis["spec"]["template"]["spec"]["containers"][0]["resources"] == {}


def test_a_new_group_may_have_values_that_are_null() -> None:
    group = {
        "stages": ["engine"],
        "gpus": 1,
        "replicas": {"min": 1, "max": 1},
        "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
    }
    nulls = {"tolerations": None, "gpuResource": None, "sharedMemory": None, "idleTimeoutSeconds": None}
    assert render(set={"workers.big": group | nulls}) == render(set={"workers.big": group})
    assert "workers" in refusal(set={"workers.big": group | {"stages": None}})


@pytest.mark.parametrize("helm", HELMS)
def test_null_in_the_values_of_a_parent_chart_is_the_default(helm: str, tmp_path: Path) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/glm-vision-serve").symlink_to(CHART)
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: shop, version: 1.0.0}")

    def rendered(values: Object) -> list[Object]:
        (tmp_path / "values.yaml").write_text(json.dumps({"glm-vision-serve": values}))
        command = [binary(helm), "template", "glm", tmp_path, "--namespace", NAMESPACE]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stderr
        return [each for each in yaml.load_all(run.stdout, Loader=yaml.CSafeLoader) if each]

    nulls = {"cache": None, "image": {"tag": None}, "ingress": {"annotations": None}, "head": {"sharedMemory": None}}
    assert rendered(nulls) == rendered({})


def on_by_default(values: Object, place: str = "") -> list[str]:
    """The paths of switches that are on."""
    paths = [f"{place}{name}" for name, value in values.items() if value is True]
    for name, value in values.items():
        if isinstance(value, dict) and name not in {"workers", "podSecurityContext"}:
            paths += on_by_default(value, f"{place}{name}.")
    return paths


@pytest.mark.parametrize("path", on_by_default(DEFAULTS))
def test_null_for_a_switch_that_is_on_is_refused(path: str) -> None:
    assert f"{path} is null. Write true or false." in refusal(set={path: None})


@pytest.mark.parametrize("helm", HELMS)
def test_null_in_the_objects_of_lists_is_what_kubernetes_has_where_nothing_is_written(helm: str) -> None:
    toleration = {"key": "gpu", "operator": "", "value": None, "effect": None, "tolerationSeconds": None}
    block = {"cidr": "10.0.0.0/8", "except": None}
    peers = [{"ipBlock": block, "podSelector": None}, {"podSelector": {}, "namespaceSelector": {"matchLabels": None}}]
    variable = {"name": "A", "value": None, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    values = {
        "workers.gpu.tolerations": [toleration],
        "redis.tolerations": [toleration],
        "networkPolicy.clients": peers,
        "networkPolicy.egress": [{"to": None, "ports": None}],
        "extraEnv": [variable],
    }
    objects = render(helm=helm, set=ALL_ON | values)
    (gpu,) = [
        group
        for group in rayservice(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        if "gpu" in group["groupName"]
    ]
    assert gpu["template"]["spec"]["tolerations"] == [{"key": "gpu", "operator": ""}]
    assert {"name": "A", "valueFrom": variable["valueFrom"]} in gpu["template"]["spec"]["containers"][0]["env"]
    policies = {each["metadata"]["name"].rpartition("-")[2]: each["spec"] for each in of_kind(objects, "NetworkPolicy")}
    assert without_nulls(policies["serve"]["ingress"][0]["from"][1:]) == without_nulls(peers)
    assert without_nulls(policies["outside"]["egress"]) == [{}]


def without_nulls(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_nulls(value) for key, value in node.items() if value is not None}
    return [without_nulls(each) for each in node] if isinstance(node, list) else node


def test_an_object_of_a_list_that_is_itself_null_is_refused() -> None:
    assert "tolerations/0" in refusal(set={"head.tolerations": [None]}).replace(".", "/")
    assert "extraEnv/0" in refusal(set={"extraEnv": [{"name": None}]}).replace(".", "/")


@pytest.mark.parametrize("helm", HELMS)
def test_a_source_of_a_volume_and_an_amount_that_are_null_are_not_there(helm: str) -> None:
    on = {"faultTolerance.enabled": True, "faultTolerance.passwordSecret.name": "redis"}
    volume = {"hostPath": {"path": "/models"}}
    container = {"name": "log", "image": "x", "resources": {"limits": {"memory": "1Gi"}}}
    nulls = {
        "modelStorage.volume": volume | {"nfs": None},
        "redis.resources.limits.cpu": None,
        "head.resources.limits.cpu": None,
        "workers.gpu.resources.limits.cpu": None,
        "extraContainers": [container | {"resources": {"requests": None, "limits": {"memory": "1Gi", "cpu": None}}}],
    }
    without = {"modelStorage.volume": volume, "extraContainers": [container]}
    assert render(helm=helm, set=on | nulls) == render(helm=helm, set=on | without)


@pytest.mark.parametrize("helm", HELMS)
def test_workers_that_are_null_are_no_groups(helm: str) -> None:
    assert 'No enabled group of `workers` lists "ingress"' in refusal(helm=helm, set={"workers": None})
