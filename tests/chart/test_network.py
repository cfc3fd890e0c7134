"""The flows that the chart's NetworkPolicies let pass, and those that they don't, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.network import Pod
from tests.chart.network_peers import cluster_network, release_pods
from tests.chart.render import PROFILES, Object, every_value_set, of_kind, profile, render

pytestmark = pytest.mark.chart

# Where the API leaves it to the network plugin whether an ipBlock covers pods, both answers have to do.
PLUGINS = pytest.mark.parametrize("blocks_cover_pods", [True, False], ids=["blocks-cover-pods", "blocks-are-outside"])

RAY = (6379, 8265, 10001, 52365, 30000, 45678)  # GCS, dashboard, client, agent, direct ingress, any of its own
METRICS = (8080, 44217, 44227)
METADATA = (
    "metadata of AWS, Azure, Google",
    "metadata of Alibaba Cloud",
    "metadata of Oracle Cloud",
    "WireServer of Azure",
)

# Who, to whom, on which ports. `workers` is each worker group, `readers` those that run preprocess or engine.
Flow = tuple[str, str, tuple[int, ...]]
PASS: list[Flow] = [
    ("test", "workers", (8000,)),
    ("operator", "head", (8265,)),
    ("prometheus", "head", METRICS),
    ("prometheus", "workers", (8080, 9101)),
    ("workers", "head", RAY),
    ("head", "workers", RAY),
    ("workers", "workers", RAY),
    ("head", "redis", (6379,)),
    ("clean-up", "redis", (6379,)),
    ("head", "dns", (53,)),
    ("workers", "dns", (53,)),
    ("test", "dns", (53,)),
    ("workers", "DNS cache of the node", (53,)),
    ("readers", "a page", (443, 80)),
]
DENY: list[Flow] = [
    ("client", "head", (*RAY, *METRICS, 8000)),
    ("client", "workers", (*RAY, *METRICS, 8000, 9000, 9101)),
    ("other pod", "head", (*RAY, *METRICS, 8000)),
    ("other pod", "workers", (*RAY, *METRICS, 8000, 9000, 9101)),
    ("a page", "head", (*RAY, *METRICS, 8000)),
    ("a page", "workers", (*RAY, 8000, 8080)),
    ("ingress", "head", (*RAY, 8000)),
    ("ingress", "workers", (*RAY, *METRICS, 9101)),
    ("prometheus", "head", (*RAY, 8000)),
    ("prometheus", "workers", RAY),
    ("operator", "head", (6379, 10001, 52365)),
    ("operator", "workers", RAY),
    ("test", "head", RAY),
    ("client", "redis", (6379,)),
    ("other pod", "redis", (6379,)),
    ("workers", "redis", (6379,)),
    ("test", "redis", (6379,)),
    ("prometheus", "redis", (6379,)),
    ("redis", "head", RAY),
    ("redis", "a page", (443, 80)),
    ("test", "a page", (443, 80)),
    ("head", "a page", (80, 8080)),
    *((name, place, (80,)) for name in ("workers", "head", "redis", "test") for place in METADATA),
    *(("workers", place, (443, 32526)) for place in METADATA),
    ("workers", "a host of the company", (443, 80, 22)),
    ("workers", "API server", (443, 6443)),
    ("workers", "a page", (22, 25, 8000)),
    ("workers", "client", (443, 80, 8000)),
    ("workers", "other pod", (443, 80, 8000)),
    ("workers", "dns", (443, 8000)),
    ("client", "test", (80, 8000)),
]


def ends(name: str, pods: dict[str, Pod], objects: list[Object]) -> Iterator[Pod]:
    """The pods that a name of the tables means; none where this release has no such pod."""
    if name not in {"workers", "readers"}:
        yield from [pods[name]] if name in pods else []
        return
    for pod in pods.values():
        if pod.labels.get("app.kubernetes.io/component") == "worker" and (name == "workers" or reads(pod, objects)):
            yield pod


def reads(pod: Pod, objects: list[Object]) -> bool:
    """Whether preprocess or engine runs in a worker's group: its Ray resources are the names of its stages."""
    for resource in of_kind(objects, "RayService"):
        for group in resource["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
            if group["groupName"] == pod.labels["glm-vision-serve/group"]:
                return bool({"preprocess", "engine"} & group["resources"].keys())
    return False


def outcomes(objects: list[Object], flows: list[Flow], blocks_cover_pods: bool) -> dict[str, bool]:
    """Whether each flow of a table passes."""
    world, pods = cluster_network(objects, blocks_cover_pods=blocks_cover_pods)
    return {
        f"{source.name} -> {target.name}:{port}": world.passes(source, target, port)
        for one, other, ports in flows
        for source in ends(one, pods, objects)
        for target in ends(other, pods, objects)
        for port in ports
    }


@PLUGINS
@pytest.mark.parametrize("name", PROFILES)
def test_what_has_to_pass_passes(name: str, blocks_cover_pods: bool):
    found = outcomes(profile(name), PASS, blocks_cover_pods)
    assert [flow for flow, passes in found.items() if not passes] == []


@PLUGINS
@pytest.mark.parametrize("files", every_value_set())
def test_what_must_not_pass_does_not(files: tuple[Path, ...], blocks_cover_pods: bool):
    objects = render(*files)
    if not of_kind(objects, "NetworkPolicy"):
        assert "everything-off" in str(files)  # the one set that turns them off
        return
    found = outcomes(objects, DENY, blocks_cover_pods)
    assert [flow for flow, passes in found.items() if passes] == []


def test_every_row_of_the_tables_names_existing_pods():
    objects = profile("cluster")
    assert all(outcomes(objects, [flow], True) for flow in (*PASS, *DENY))


def test_every_flow_that_is_denied_would_pass_without_policies():
    objects = [each for each in profile("cluster") if each["kind"] != "NetworkPolicy"]
    assert all(outcomes(objects, DENY, True).values())


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_dns_is_reached_over_both_protocols(protocol: str):
    world, pods = cluster_network(profile("cluster"), blocks_cover_pods=True)
    for name in ("head", "worker gpu", "test"):
        assert world.passes(pods[name], pods["dns"], 53, protocol)


@pytest.mark.parametrize("name", PROFILES)
def test_every_pod_of_a_release_is_closed_in_both_directions(name: str):
    objects = profile(name)
    world, _ = cluster_network(objects, blocks_cover_pods=True)
    outside = Pod("unheard of", "198.51.100.9")
    for pod in release_pods(objects).values():
        assert not world.passes(outside, pod, 1)
        assert not world.passes(pod, outside, 1)


def passes(values: dict[str, Any], source: str, target: str, port: int) -> bool:
    world, pods = cluster_network(render("values-cluster.yaml", set=values), blocks_cover_pods=False)
    return world.passes(pods[source], pods[target], port)


def test_an_empty_egress_list_leaves_workers_nothing_outside():
    assert passes({}, "worker gpu", "a page", 443)
    assert not passes({"networkPolicy.egress": []}, "worker gpu", "a page", 443)
    assert not passes({"networkPolicy.egress": []}, "worker cpu", "a page", 80)
    assert passes({"networkPolicy.egress": []}, "worker cpu", "head", 6379)


SHOP: Any = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}


def test_only_the_named_clients_may_call_the_service():
    only_the_shop = {"networkPolicy.clients": [SHOP]}
    assert passes(only_the_shop, "client", "worker cpu", 8000)
    assert not passes(only_the_shop, "ingress", "worker cpu", 8000)
    assert not passes(only_the_shop, "other pod", "worker cpu", 8000)
    assert passes(only_the_shop, "test", "worker cpu", 8000)


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "cluster"])
def test_by_default_only_the_helm_test_may_call_the_service(name: str):
    world, pods = cluster_network(profile(name), blocks_cover_pods=False)
    (worker, *_) = [pod for pod in pods.values() if pod.name.startswith("worker")]
    assert [pod.name for pod in pods.values() if pod.namespace and world.passes(pod, worker, 8000)] == [
        *[pod.name for pod in release_pods(profile(name)).values() if pod.name in {"head", "clean-up"}],
        *[pod.name for pod in pods.values() if pod.name.startswith("worker")],
        "test",
    ]


def test_the_profile_with_an_ingress_lets_its_controller_in():
    assert passes({}, "ingress", "worker cpu", 8000)
    assert not passes({}, "client", "worker cpu", 8000)


def test_the_autoscaler_reaches_the_api_server_and_only_it_where_that_is_named():
    named = {"networkPolicy.apiServer": [{"ipBlock": {"cidr": "10.96.0.1/32"}}]}
    assert passes({}, "head", "API server", 443)
    assert passes({}, "head", "API server", 6443)
    assert passes(named, "head", "API server", 443)
    assert passes({}, "head", "a page", 443)
    assert not passes(named, "head", "a page", 443)


def test_a_head_without_an_autoscaler_reaches_no_api_server():
    world, pods = cluster_network(profile("single-24g"), blocks_cover_pods=True)
    assert not world.passes(pods["head"], pods["API server"], 443)


def test_another_namespace_of_the_operator_is_the_one_that_may_configure():
    moved = {"networkPolicy.operatorNamespace": "shop"}
    assert not passes(moved, "operator", "head", 8265)


def test_without_monitors_no_pod_reaches_the_metrics():
    assert not passes({"networkPolicy.monitors": []}, "prometheus", "head", 8080)


def test_a_changed_port_of_the_service_is_the_one_that_is_open():
    moved = {"settings.http.port": 9000}
    assert passes(moved, "ingress", "worker cpu", 9000)
    assert not passes(moved, "ingress", "worker cpu", 8000)
