"""The Services that KubeRay 1.7.0 would make of a rendered RayService.

Source: ray-project/kuberay v1.7.0, ray-operator/controllers/ray/common/service.go, the function named at each one here.
"""

from __future__ import annotations

from tests.chart.kuberay_command import METRICS_PORT
from tests.chart.kuberay_pod import cluster_name
from tests.chart.kuberay_rules import is_incremental
from tests.chart.render import Object


def services(rayservice: Object) -> list[Object]:
    """The head's for the operator and people, the head's for its own workers, and the one that takes questions."""
    name, cluster = rayservice["metadata"]["name"], cluster_name(rayservice)
    return [_head_service(rayservice, name), _head_service(rayservice, cluster), serve_service(rayservice)]


def _head_ports(rayservice: Object) -> dict[str, int]:
    """getServicePorts: all named ports of the head's container, and the metrics port."""
    ray = rayservice["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return {"metrics": METRICS_PORT} | {port["name"]: port["containerPort"] for port in ray.get("ports") or ()}


def _head_service(rayservice: Object, owner: str) -> Object:
    """BuildServiceForHeadPod, BuildHeadServiceForRayService"""
    cluster = cluster_name(rayservice)
    selector = {
        "ray.io/cluster": cluster,
        "ray.io/node-type": "head",
        "ray.io/identifier": f"{cluster}-head"[-63:],
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    return _service(f"{owner}-head-svc", selector, _head_ports(rayservice))


def serve_service(rayservice: Object) -> Object:
    """BuildServeService: an incremental upgrade has one for each cluster, named after it."""
    owner = cluster_name(rayservice) if is_incremental(rayservice) else rayservice["metadata"]["name"]
    selector = {"ray.io/cluster": cluster_name(rayservice), "ray.io/serve": "true"}
    named = _head_ports(rayservice).items()
    ports = {name: port for name, port in named if name == "serve" or name.startswith("serve-")}
    return _service(f"{owner}-serve-svc", selector, ports)


def _service(name: str, selector: dict[str, str], ports: dict[str, int]) -> Object:
    listed = [{"name": each, "port": port} for each, port in sorted(ports.items())]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": listed},
    }
