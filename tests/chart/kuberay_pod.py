"""The Pods that KubeRay 1.7.0 would make of a rendered RayService: to look at, and to run without it.

Source of every step: ray-project/kuberay v1.7.0, ray-operator/controllers/ray/, the function named at each one here.
What only a cluster can give is left out: owner references, the hash annotations, and what an administrator adds to the
operator's own configuration. The head's second container, `autoscaler`, talks to the Kubernetes API: whoever runs the
Pod without one takes it out.
"""

from __future__ import annotations

import copy
from typing import Any

from tests.chart.kuberay_command import Parameters, add_common_parameters, gcs_port, parameters_of, start_command
from tests.chart.kuberay_containers import (
    add_empty_dir,
    add_environment,
    add_head_address,
    add_metrics_port,
    add_probes,
    autoscaler,
    set_command,
    set_default_environment,
    wait_for_the_head,
)
from tests.chart.render import NAMESPACE, Object

KUBERAY_VERSION = "v1.7.0"
SUFFIX = "abcde"  # what Kubernetes draws at random behind a generated name
CLUSTER_UID = "00000000-0000-0000-0000-000000000000"  # what the API server would give the RayCluster


def cluster_name(rayservice: Object) -> str:
    """The name of the RayCluster that a RayService makes (utils/util.go GenerateRayClusterName)."""
    return f"{rayservice['metadata']['name']}-{SUFFIX}"


def head_address(rayservice: Object) -> str:
    """The host name under which workers find the head (utils/util.go GenerateFQDNServiceName)."""
    namespace = rayservice["metadata"].get("namespace", NAMESPACE)
    return f"{cluster_name(rayservice)}-head-svc.{namespace}.svc.cluster.local"


def head_pod(rayservice: Object) -> Object:
    """The head's Pod (raycluster_controller.go buildHeadPod; common/pod.go DefaultHeadPodTemplate, BuildPod)."""
    cluster = copy.deepcopy(rayservice["spec"]["rayClusterConfig"])
    group = cluster["headGroupSpec"]
    template, parameters = _template(group), parameters_of(group)
    spec, ray = template["spec"], template["spec"]["containers"][0]
    parameters.setdefault("dashboard-host", "0.0.0.0")
    add_common_parameters(parameters)

    sidecar = None
    if cluster.get("enableInTreeAutoscaling"):
        parameters["no-monitor"] = "true"
        spec.setdefault("serviceAccountName", cluster_name(rayservice))
        sidecar = autoscaler(ray["image"], cluster.get("autoscalerOptions") or {})
        _add_token(sidecar, rayservice)
        spec["containers"].append(sidecar)
        version = (cluster.get("autoscalerOptions") or {}).get("version")
        if version:
            ray["env"].append({"name": "RAY_enable_autoscaler_v2", "value": "true" if version == "v2" else "false"})
        if version == "v2":
            spec["restartPolicy"] = "Never"
    _add_fault_tolerance_of_the_head(template, parameters, cluster.get("gcsFaultToleranceOptions"))
    add_metrics_port(ray)
    _add_token(ray, rayservice)

    add_empty_dir(spec, ray, "shared-mem", "/dev/shm", in_memory=True)
    if sidecar:
        for container in (ray, sidecar):
            add_empty_dir(spec, container, "ray-logs", "/tmp/ray", in_memory=False)
    start = start_command("ray start --head", parameters, ray)
    set_command(rayservice, ray, start)
    address = head_address(rayservice)
    for container in spec.get("initContainers", []):
        add_head_address(container, address)
    add_environment(ray, start, f"127.0.0.1:{gcs_port(cluster)}", gcs_port(cluster))
    ray["env"].append(
        {
            "name": "RAY_USAGE_STATS_EXTRA_TAGS",
            "value": f"kuberay_version={KUBERAY_VERSION};kuberay_crd=RayService",
        }
    )
    set_default_environment(ray, {"RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1"})
    add_probes(ray, parameters, cluster, of_head=True)
    labels = {"ray.io/serve": "false"}  # the controller sets it to true once the head's proxy answers
    return _pod(rayservice, template, "head", "headgroup", group.get("labels"), labels)


def worker_pod(rayservice: Object, group: str, head: str | None = None) -> Object:
    """A Pod of the worker group of that name (buildWorkerPod; common/pod.go DefaultWorkerPodTemplate, BuildPod).

    `head` is the address under which the head is found: KubeRay's own name for it unless given. KeyError where there is
    no such group.
    """
    cluster = copy.deepcopy(rayservice["spec"]["rayClusterConfig"])
    specified = {each["groupName"]: each for each in cluster["workerGroupSpecs"]}[group]
    address = head or head_address(rayservice)
    port = gcs_port(cluster)
    template, parameters = _template(specified), parameters_of(specified)
    spec, ray = template["spec"], template["spec"]["containers"][0]

    waiting = wait_for_the_head(ray, address, port)
    spec.setdefault("initContainers", []).append(waiting)
    parameters.setdefault("address", f"{address}:{port}")
    add_common_parameters(parameters)
    if cluster.get("gcsFaultToleranceOptions"):
        set_default_environment(ray, {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"})
    add_metrics_port(ray)
    if cluster.get("enableInTreeAutoscaling") and (cluster.get("autoscalerOptions") or {}).get("version") == "v2":
        spec["restartPolicy"] = "Never"
    _add_token(ray, rayservice)
    _add_token(waiting, rayservice)

    add_empty_dir(spec, ray, "shared-mem", "/dev/shm", in_memory=True)
    start = start_command("ray start", parameters, ray)
    set_command(rayservice, ray, start)
    for container in spec["initContainers"]:
        add_head_address(container, address)
    add_head_address(ray, address)
    add_environment(ray, start, f"{address}:{port}", port)
    set_default_environment(ray, {"RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1"})
    add_probes(ray, parameters, cluster, of_head=False)
    labels = {"ray.io/serve": "true", "ray.io/worker-group-replica-index": "0"}
    return _pod(rayservice, template, "worker", group, specified.get("labels"), labels)


def groups(rayservice: Object) -> list[str]:
    """The names of the worker groups."""
    return [each["groupName"] for each in rayservice["spec"]["rayClusterConfig"].get("workerGroupSpecs", [])]


def pods(rayservice: Object) -> list[Object]:
    """The head and one worker of each group."""
    return [head_pod(rayservice), *(worker_pod(rayservice, group) for group in groups(rayservice))]


def _template(group: Object) -> Object:
    template: Object = group["template"]
    template.setdefault("metadata", {})
    ray = template["spec"]["containers"][0]
    for name in ("env", "ports", "volumeMounts"):
        ray[name] = ray.get(name) or []
    template["spec"]["volumes"] = template["spec"].get("volumes") or []
    return template


def _add_token(container: Object, rayservice: Object) -> None:
    """SetContainerTokenAuthEnvVars: the operator's own secret, named after the RayCluster, unless one is named."""
    options = rayservice["spec"]["rayClusterConfig"].get("authOptions")
    if options is None or options.get("mode") != "token":
        return
    secret = options.get("secretName") or _checked(cluster_name(rayservice))
    container["env"] = container.get("env") or []
    set_default_environment(container, {"RAY_AUTH_MODE": "token"})
    if all(each["name"] != "RAY_AUTH_TOKEN" for each in container["env"]):
        reference = {"secretKeyRef": {"name": secret, "key": "auth_token"}}
        container["env"].append({"name": "RAY_AUTH_TOKEN", "valueFrom": reference})


def _checked(name: str) -> str:
    """utils/util.go CheckName: the last 50 characters, with a letter in front."""
    name = name[-50:]
    return name if name[0].isalpha() else f"r{name[1:]}"


def _add_fault_tolerance_of_the_head(template: Object, parameters: Parameters, options: Object | None) -> None:
    """configureGCSFaultTolerance, configureRedisFT"""
    annotations = template["metadata"].setdefault("annotations", {})
    annotations["ray.io/ft-enabled"] = "true" if options else "false"
    if not options:
        return
    environment = template["spec"]["containers"][0]["env"]
    namespace = options.get("externalStorageNamespace") or CLUSTER_UID
    annotations["ray.io/external-storage-namespace"] = namespace
    set_default_environment(template["spec"]["containers"][0], {"RAY_external_storage_namespace": namespace})
    environment.append({"name": "RAY_REDIS_ADDRESS", "value": options["redisAddress"]})
    for field, variable in (("redisUsername", "REDIS_USERNAME"), ("redisPassword", "REDIS_PASSWORD")):
        if options.get(field):
            parameters[variable.lower().replace("_", "-")] = f"${variable}"
            environment.append({"name": variable, **options[field]})


def _pod(
    rayservice: Object, template: Object, kind: str, group: str, over: Parameters | None, more: Parameters
) -> Object:
    """The labels and the name (labelPod, mergeLabels; utils/util.go PodName); the template's labels win over most."""
    cluster = cluster_name(rayservice)
    own = {"ray.io/node-type": kind, "ray.io/group": group, "ray.io/cluster": cluster}
    labels = {
        "ray.io/is-ray-node": "yes",
        "ray.io/identifier": f"{cluster}-{kind}"[-63:],
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        **(template["metadata"].get("labels") or {}),
        **(over or {}),
        **own,
        **more,
    }
    prefix = cluster if kind == "head" else f"{cluster}-{group}"
    metadata: dict[str, Any] = {
        "name": f"{prefix[:50]}-{kind}-{SUFFIX}".lower(),
        "namespace": rayservice["metadata"].get("namespace", NAMESPACE),
        "labels": labels,
    }
    if template["metadata"].get("annotations"):
        metadata["annotations"] = template["metadata"]["annotations"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
