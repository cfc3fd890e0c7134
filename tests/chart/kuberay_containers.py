"""What KubeRay 1.7.0 adds to the containers of a Ray Pod: environment, probes, mounts, sidecars.

Source: ray-project/kuberay v1.7.0, ray-operator/controllers/ray/common/pod.go, the function named at each one here.
"""

from __future__ import annotations

import copy

from tests.chart.kuberay_command import METRICS_PORT, Parameters
from tests.chart.render import Object

DASHBOARD_PORT = 8265
SERVE_PORT = 8000

_SHELL = ["/bin/bash", "-c", "--"]  # utils/util.go GetContainerCommand


def set_command(rayservice: Object, ray: Object, start: str) -> None:
    """BuildPod: what the container's own command says runs first, unless an annotation keeps it as it is."""
    annotations = rayservice["metadata"].get("annotations") or {}
    own = "".join(f" {word} " for word in [*ray.get("command", []), *ray.get("args", [])])
    if annotations.get("ray.io/overwrite-container-cmd", "").lower() == "true" or "ray start" in own:
        return
    generated = f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {start}"
    ray["command"] = list(_SHELL)
    ray["args"] = [f"{own} && {generated}" if own else generated]


def set_default_environment(container: Object, variables: dict[str, str]) -> None:
    present = {each["name"] for each in container["env"]}
    container["env"] += [{"name": name, "value": value} for name, value in variables.items() if name not in present]


def _from_field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def add_head_address(container: Object, address: str) -> None:
    """setInitContainerEnvVars, and the same in setContainerEnvVars"""
    environment = [{"name": "FQ_RAY_IP", "value": address}, {"name": "RAY_IP", "value": address.split(".")[0]}]
    container["env"] = [*(container.get("env") or []), *environment]


def add_environment(ray: Object, start: str, address: str, port: str) -> None:
    """setContainerEnvVars, as far as head and worker have it alike"""
    ray["env"] += [
        _from_field("RAY_CLUSTER_NAME", "metadata.labels['ray.io/cluster']"),
        _from_field("RAY_CLUSTER_NAMESPACE", "metadata.namespace"),
        _from_field("RAY_CLOUD_INSTANCE_ID", "metadata.name"),
        _from_field("RAY_NODE_TYPE_NAME", "metadata.labels['ray.io/group']"),
        {"name": "KUBERAY_GEN_RAY_START_CMD", "value": start},
    ]
    set_default_environment(
        ray,
        {
            "RAY_PORT": port,
            "RAY_timeout_ms_task_wait_for_death_info": "0",
            "RAY_gcs_server_request_timeout_seconds": "5",
            "RAY_SERVE_KV_TIMEOUT_S": "5",
            "RAY_ADDRESS": address,
            "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
        },
    )


def add_metrics_port(ray: Object) -> None:
    if all(port.get("name") != "metrics" for port in ray["ports"]):
        ray["ports"].append({"name": "metrics", "containerPort": METRICS_PORT})


def add_empty_dir(spec: Object, container: Object, name: str, path: str, *, in_memory: bool) -> None:
    """addEmptyDir, makeEmptyDirVolume: nothing where the path is mounted already."""
    mounts = container["volumeMounts"] = container.get("volumeMounts") or []
    if any(mount["mountPath"] == path for mount in mounts):
        return
    if all(volume["name"] != name for volume in spec["volumes"]):
        source: Object = {}
        if in_memory:
            limits, requests = (container.get("resources", {}).get(each) or {} for each in ("limits", "requests"))
            size = limits.get("memory") or requests.get("memory")
            source = {"medium": "Memory", **({"sizeLimit": size} if size else {})}
        spec["volumes"].append({"name": name, "emptyDir": source})
    mounts.append({"name": name, "mountPath": path})


def wait_for_the_head(ray: Object, address: str, port: str) -> Object:
    """The init container of workers (DefaultWorkerPodTemplate): asks the head every 5 seconds whether it is up.

    Our wording of the loop; what it needs of the image is the operator's: bash and `ray health-check`.
    """
    loop = f"until ray health-check --address {address}:{port}; do echo waiting for the head; sleep 5; done"
    share = {"cpu": "200m", "memory": "256Mi"}
    waiting = {
        "name": "wait-gcs-ready",
        "image": ray["image"],
        "command": list(_SHELL),
        "args": [loop],
        "env": copy.deepcopy(ray["env"]),
        "volumeMounts": copy.deepcopy(ray["volumeMounts"]),
        "resources": {"limits": dict(share), "requests": dict(share)},
    }
    for name in ("imagePullPolicy", "securityContext"):
        if name in ray:
            waiting[name] = copy.deepcopy(ray[name])
    return waiting


def autoscaler(image: str, options: Object) -> Object:
    """BuildAutoscalerContainer, mergeAutoscalerOverrides: runs the head's image unless told otherwise."""
    command = "ray kuberay-autoscaler --cluster-name $(RAY_CLUSTER_NAME) --cluster-namespace $(RAY_CLUSTER_NAMESPACE)"
    share = {"cpu": "500m", "memory": "512Mi"}
    container: Object = {
        "name": "autoscaler",
        "image": options.get("image") or image,
        "imagePullPolicy": options.get("imagePullPolicy") or "IfNotPresent",
        "env": [
            _from_field("RAY_CLUSTER_NAME", "metadata.labels['ray.io/cluster']"),
            _from_field("RAY_CLUSTER_NAMESPACE", "metadata.namespace"),
            _from_field("RAY_HEAD_POD_NAME", "metadata.name"),
            {"name": "KUBERAY_CRD_VER", "value": "v1"},
            {"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": command},
            *(options.get("env") or []),
        ],
        "command": options.get("command") or list(_SHELL),
        "args": options.get("args") or [command],
        "resources": options.get("resources") or {"limits": dict(share), "requests": dict(share)},
        "volumeMounts": list(options.get("volumeMounts") or []),
    }
    for name in ("envFrom", "securityContext"):
        if options.get(name):
            container[name] = copy.deepcopy(options[name])
    return container


def _wget(timeout_s: int, port: int, path: str) -> str:
    """utils/constant.go BaseWgetHealthCommand"""
    return f"wget --tries 1 -T {timeout_s} -q -O- http://localhost:{port}/{path} | grep success"


def add_probes(ray: Object, parameters: Parameters, cluster: Object, *, of_head: bool) -> None:
    """initLivenessAndReadinessProbe: only where the container has none of its own.

    Since Ray 2.53 one address tells the health of a node. A worker of a RayService is also asked for its HTTP proxy,
    once: the port is the container's port named `serve`, or 8000.
    """
    agent = int(parameters["dashboard-agent-listen-port"])
    unified = tuple(map(int, cluster.get("rayVersion", "0.0").split(".")[:2])) >= (2, 53)
    commands = [_wget(2, agent, "api/local_raylet_healthz")]
    if of_head:
        commands.append(_wget(10, int(parameters.get("dashboard-port", DASHBOARD_PORT)), "api/gcs_healthz"))

    def check() -> Object:
        return {"httpGet": {"path": "/api/healthz", "port": agent}} if unified else by(commands)

    def by(commands: list[str]) -> Object:
        return {"exec": {"command": ["bash", "-c", " && ".join(commands)]}}

    common = {"timeoutSeconds": 5 if of_head else 2, "periodSeconds": 5, "successThreshold": 1}
    ready = {"initialDelaySeconds": 10, **common, "failureThreshold": 10}
    ray.setdefault("livenessProbe", {**check(), "initialDelaySeconds": 30, **common, "failureThreshold": 120})
    if of_head:
        ray.setdefault("readinessProbe", {**check(), **ready})
    else:
        proxy = _wget(10, serve_port(ray) or SERVE_PORT, "-/healthz")
        ray.setdefault("readinessProbe", {**by([*commands, proxy]), **ready, "failureThreshold": 1})


def serve_port(container: Object) -> int | None:
    """The container's port named `serve`, the only name by which KubeRay knows it (utils/util.go FindContainerPort)."""
    named = [port["containerPort"] for port in container.get("ports", []) if port.get("name") == "serve"]
    return named[0] if named else None
