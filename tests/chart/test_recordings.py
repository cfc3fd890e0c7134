"""The tests' model of KubeRay against what the operator 1.7.0 made of the chart on a real API server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.kuberay_pod import CLUSTER_UID, SUFFIX, pods
from tests.chart.kuberay_services import services
from tests.chart.render import NAMESPACE, Object, rayservice, render

pytestmark = pytest.mark.chart

RELEASE = "glm-vision-serve"
RECORDED: dict[str, Object] = yaml.safe_load(Path(__file__).with_name("operator_1_7_0.yaml").read_text())
OPERATORS_OWN = ("ray.io/kuberay-version", "ray.io/upgrade-strategy-recreate-hash")  # which the model leaves out


def resource_of(value_set: str) -> Object:
    """The RayService of a value set, without the chart's own probe of the head, which was not there yet."""
    files = {"default": ()}.get(
        value_set, (f"{value_set}.yaml" if value_set.startswith("values-") else f"ci/{value_set}-values.yaml",)
    )
    resource = rayservice(render(*files, release=RELEASE))
    head = resource["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head.pop("livenessProbe", None)
    return resource


def chart_variables(resource: Object) -> set[str]:
    cluster = resource["spec"]["rayClusterConfig"]
    containers = [group["template"]["spec"]["containers"][0] for group in _groups(cluster)]
    variables = [each for container in containers for each in container["env"]]
    return {each["name"] for each in [*variables, *cluster.get("autoscalerOptions", {}).get("env", [])]}


def _groups(cluster: Object) -> list[Object]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def variable(entry: Object) -> str:
    """As the recording writes it."""
    if "valueFrom" not in entry:
        return f"{entry['name']}={entry.get('value', '')}"
    ((kind, source),) = entry["valueFrom"].items()
    return f"{entry['name']} <- {kind} {source['fieldPath'] if kind == 'fieldRef' else source['key']}"


def probe(each: Object) -> Object:
    """A probe without what Kubernetes adds; the operator's exec by what it calls."""
    kept = {name: value for name, value in each.items() if name != "successThreshold"}
    if "exec" in kept:
        called = re.findall(r"http://(\S+)", kept["exec"]["command"][-1])
        kept["exec"] = f"KubeRay's: wget of {', '.join(called)}"
    return kept


def made_of(container: Object, own: set[str]) -> Object:
    """What the operator has made of a container, in the form of the recording."""
    made: dict[str, Any] = {
        "environment": sorted(
            variable(each)
            for each in container.get("env", [])
            if each["name"] not in own and each["name"] != "KUBERAY_GEN_RAY_START_CMD"
        ),
        "mounts": {each["name"]: each["mountPath"] for each in container.get("volumeMounts", [])},
    }
    made |= {name: probe(container[name]) for name in ("livenessProbe", "readinessProbe") if name in container}
    started = re.search(r"ray start +(.*)$", (container.get("args") or [""])[0])
    if started and "readinessProbe" in container:
        made["ray_start"] = sorted(started[1].split())
    if container["name"] == "wait-gcs-ready":
        made["resources"] = container["resources"]
    return made


def as_recorded(value: Any) -> Any:
    """The value with the recording's names of what is drawn at random."""
    text = json.dumps(value)
    for drawn, name in ((f"-{SUFFIX}", "-HASH"), (f".{NAMESPACE}.svc", ".NAMESPACE.svc"), (CLUSTER_UID, "UID")):
        text = text.replace(drawn, name)
    return json.loads(text)


@pytest.mark.parametrize("value_set", RECORDED)
def test_the_model_makes_the_pods_that_the_operator_made(value_set: str):
    resource = resource_of(value_set)
    own = chart_variables(resource)
    recorded = RECORDED[value_set]["pods"]
    made = {pod["metadata"]["labels"]["ray.io/group"]: pod for pod in pods(resource)}
    assert recorded.keys() <= made.keys()  # a group without pods has none
    for group, real in recorded.items():
        metadata, spec = made[group]["metadata"], made[group]["spec"]
        assert as_recorded(metadata["labels"]) == real["labels"], group
        annotations = {name: value for name, value in real.get("annotations", {}).items() if name not in OPERATORS_OWN}
        assert as_recorded(metadata.get("annotations", {})) == annotations, group
        assert spec.get("restartPolicy", "Always") == real["restartPolicy"], group
        containers = [*spec.get("initContainers", []), *spec["containers"]]
        assert [each["name"] for each in containers] == list(real["order"]), group
        for container in containers:
            assert as_recorded(made_of(container, own)) == real["containers"][container["name"]], container["name"]


@pytest.mark.parametrize("value_set", RECORDED)
def test_the_model_makes_the_services_that_the_operator_made(value_set: str):
    made = {
        each["metadata"]["name"]: {
            "selector": each["spec"]["selector"],
            "ports": {port["name"]: port["port"] for port in each["spec"]["ports"]},
        }
        for each in services(resource_of(value_set))
    }
    for name, real in RECORDED[value_set]["services"].items():
        assert as_recorded(made)[name] == real
