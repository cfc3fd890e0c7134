"""What KubeRay 1.7.0 relies on in a RayService without checking it: else pods or traffic fail.

Source: ray-project/kuberay v1.7.0, ray-operator/controllers/ray/, the file and function named at each. The functions
are of the same make as those of tests/chart/kuberay_rules.py.
"""

from __future__ import annotations

from typing import Any

import yaml

from tests.chart.kuberay_containers import serve_port
from tests.chart.kuberay_rules import Complaints, Rule, cluster_of, groups_of, is_incremental, parameters_of
from tests.chart.quantities import quantity
from tests.chart.render import Object


def auth_options_say_their_mode(rayservice: Object) -> Complaints:
    """raycluster_controller.go reconcileAuthSecret makes a token for authOptions without a mode, and no pod gets it"""
    options = cluster_of(rayservice).get("authOptions")
    if options is not None and "mode" not in options:
        yield "authOptions has no mode"


def traffic_finds_a_port(rayservice: Object) -> Complaints:
    """common/service.go BuildServeService, GetServePort; common/pod.go initLivenessAndReadinessProbe

    The Service of a RayService takes the head container's ports named `serve` or `serve-…`, or serveService where there
    is none; an incremental upgrade has only the first. A worker's proxy is probed on its port named `serve`, else 8000.
    """
    containers = cluster_of(rayservice)["headGroupSpec"]["template"]["spec"]["containers"]
    names = [port.get("name", "") for port in containers[0].get("ports") or ()] if containers else []
    named = any(name == "serve" or name.startswith("serve-") for name in names)
    if not named and (is_incremental(rayservice) or not rayservice["spec"].get("serveService")):
        yield "the head's container has no port named serve"
    config = _serve_config(rayservice)
    port = (config.get("http_options") or {}).get("port", 8000) if isinstance(config, dict) else 8000
    for name, group in groups_of(rayservice):
        container = group["template"]["spec"]["containers"][0]
        if "readinessProbe" not in container and (serve_port(container) or 8000) != port:
            yield f"{name} is probed on port {serve_port(container) or 8000}, Serve listens on {port}"


def serve_config_is_yaml(rayservice: Object) -> Complaints:
    """rayservice_controller.go updateServeDeployment; utils/dashboardclient: an application has a name of its own"""
    config = _serve_config(rayservice)
    if not isinstance(config, dict):
        yield "serveConfigV2 is no YAML mapping"
        return
    applications = config.get("applications") or []
    if not applications:
        yield "serveConfigV2 has no application"
    names = [each.get("name") for each in applications]
    if len(set(names)) < len(names) or None in names:
        yield f"applications are named {names}"


def _serve_config(rayservice: Object) -> Any:
    try:
        return yaml.safe_load(rayservice["spec"].get("serveConfigV2") or "")
    except yaml.YAMLError:
        return None


def services_find_their_pods(rayservice: Object) -> Complaints:
    """common/service.go HeadServiceLabels, BuildHeadServiceForRayService: the selector is the operator's own labels

    A template's labels win over the operator's on the pod (common/pod.go labelPod) and not in the selector, so one of
    these names would hide the head from its workers and from the operator.
    """
    selected = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/created-by": "kuberay-operator"}
    for name, group in groups_of(rayservice):
        labels = (group["template"].get("metadata") or {}).get("labels") or {}
        for key in sorted(labels):
            if key.startswith("ray.io/") or labels[key] != selected.get(key, labels[key]):
                yield f"{name} has the label {key}, which is the operator's"


def ray_containers_come_first(rayservice: Object) -> Complaints:
    """utils/constant.go RayContainerIndex: the command, the environment and the probes go to the first container"""
    for name, group in groups_of(rayservice):
        first = group["template"]["spec"]["containers"][0]["name"]
        if first != ("ray-head" if name == "the head" else "ray-worker"):
            yield f"the first container of {name} is {first}"


def operators_environment_is_left_alone(rayservice: Object) -> Complaints:
    """common/pod.go setContainerEnvVars appends these: a second one of the same name would win or be refused"""
    managed = {"RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE", "RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME", "RAY_IP"}
    managed |= {"FQ_RAY_IP", "KUBERAY_GEN_RAY_START_CMD"}
    for name, group in groups_of(rayservice):
        for variable in group["template"]["spec"]["containers"][0].get("env") or ():
            tags = name == "the head" and variable["name"] == "RAY_USAGE_STATS_EXTRA_TAGS"
            if tags or variable["name"] in managed:
                yield f"{name} sets {variable['name']}"


def ray_is_told_what_a_pod_has(rayservice: Object) -> Complaints:
    """common/pod.go generateRayStartCommand takes CPUs and memory from the container where nothing else says them"""
    for name, group in groups_of(rayservice):
        resources = group["template"]["spec"]["containers"][0].get("resources") or {}
        said = {*parameters_of(group), *(key.lower() for key in group.get("resources") or {})}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        if not {"num-cpus", "cpu"} & said and not quantity((limits | requests).get("cpu", 0)):
            yield f"{name} has neither a request of CPUs nor num-cpus: Ray would take all CPUs of the machine"
        if "memory" not in said and not quantity(limits.get("memory", 0)):
            yield f"{name} has no limit of memory: Ray would take all memory of the machine"


NEEDS: tuple[Rule, ...] = (
    auth_options_say_their_mode,
    traffic_finds_a_port,
    serve_config_is_yaml,
    services_find_their_pods,
    ray_containers_come_first,
    operators_environment_is_left_alone,
    ray_is_told_what_a_pod_has,
)
