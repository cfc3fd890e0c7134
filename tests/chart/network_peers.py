"""The pods around a release: its own, those that it works with, and others that it must not reach or serve."""

from __future__ import annotations

import copy

from tests.chart import core
from tests.chart.kuberay_pod import groups, head_pod, worker_pod
from tests.chart.network import Pod, World
from tests.chart.render import NAMESPACE, Object, of_kind, rayservice

# Labels as the peers' own charts give them (kuberay-operator 1.7.0, kube-prometheus-stack, CoreDNS, ingress-nginx)
NAMESPACES = {
    name: {"kubernetes.io/metadata.name": name}
    for name in (NAMESPACE, "kuberay-system", "monitoring", "kube-system", "ingress-nginx", "shop")
}
PEERS = (
    Pod(
        "operator",
        "10.1.0.1",
        "kuberay-system",
        {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"},
    ),
    Pod("prometheus", "10.1.0.2", "monitoring", {"app.kubernetes.io/name": "prometheus"}),
    Pod("dns", "10.1.0.3", "kube-system", {"k8s-app": "kube-dns"}),
    Pod("ingress", "10.1.0.4", "ingress-nginx", {"app.kubernetes.io/component": "controller"}),
    Pod("client", "10.1.0.5", "shop", {"app": "shop"}),
    Pod("other pod", "10.1.0.6", NAMESPACE, {"app": "somebody-else"}),
    Pod("a page", "203.0.113.7"),
    Pod("a host of the company", "10.200.0.9"),
    Pod("API server", "10.96.0.1"),
    Pod("DNS cache of the node", "169.254.20.10"),
    # Where clouds hand a machine its credentials, and other addresses from which no picture may be fetched.
    Pod("metadata of AWS, Azure, Google", "169.254.169.254"),
    Pod("metadata of Alibaba Cloud", "100.100.100.200"),
    Pod("metadata of Oracle Cloud", "192.0.0.192"),
    Pod("WireServer of Azure", "168.63.129.16"),
)


def release_pods(objects: list[Object]) -> dict[str, Pod]:
    """The pods of a release by a short name: `head`, `worker NAME`, `clean-up`, `redis`, `test`."""
    resource = rayservice(objects)
    head = head_pod(resource)
    # raycluster_controller.go buildRedisCleanupJob: the head's pod with another type
    clean_up = copy.deepcopy(head)
    clean_up["metadata"]["labels"]["ray.io/node-type"] = "redis-cleanup"
    made = {"head": head, "clean-up": clean_up}
    made |= {f"worker {group}": worker_pod(resource, group) for group in groups(resource)}
    for each in [*of_kind(objects, "StatefulSet"), *of_kind(objects, "Deployment"), *of_kind(objects, "Pod")]:
        for _, template in core.pod_templates(each):
            made[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template
    return {name: _pod(name, f"10.2.0.{number}", template) for number, (name, template) in enumerate(made.items(), 1)}


def _pod(name: str, address: str, template: Object) -> Pod:
    named = [port for each in template["spec"]["containers"] for port in each.get("ports") or () if "name" in port]
    labels = template["metadata"].get("labels") or {}
    return Pod(name, address, NAMESPACE, labels, {port["name"]: port["containerPort"] for port in named})


def cluster_network(objects: list[Object], *, blocks_cover_pods: bool) -> tuple[World, dict[str, Pod]]:
    """The policies of a release in their cluster, and all pods in it by name."""
    policies = tuple(
        {**each, "metadata": {"namespace": NAMESPACE, **each["metadata"]}} for each in of_kind(objects, "NetworkPolicy")
    )
    pods = release_pods(objects) | {pod.name: pod for pod in PEERS}
    return World(NAMESPACES, policies, blocks_cover_pods), pods
