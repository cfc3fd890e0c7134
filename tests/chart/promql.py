"""What the expressions of boards and alerts ask for: which metrics, by which labels; and who has them.

`OURS` comes from the code. `BUILT_IN` is Ray's and HAProxy's: tests/cluster/test_dashboards.py finds each of them in a
real scrape, except those of `GPU_ONLY`, for which it asks Ray's own code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser

from serve_app.metrics import DECLARED
from tests.chart.render import CHART, Object, of_kind

BOARDS = sorted((CHART / "dashboards").glob("*.json"))
WINDOW = re.compile(r"\[\$__rate_interval\]")

SCRAPED = frozenset({"namespace", "pod", "container", "endpoint", "job", "instance", "release", "ray_io_cluster"})
_SERVE = frozenset({"application", "deployment", "WorkerId", "Component", "NodeAddress"})
_NODE = frozenset({"ip", "IsHeadNode", "RayNodeType"})
_GPU = _NODE | {"GpuIndex", "GpuDeviceName", "GpuUuid"}

OURS = {
    f"ray_{metric.name}{'_bucket' if metric.kind == 'histogram' else ''}": _SERVE
    | {"replica", *metric.tags}
    | ({"le"} if metric.kind == "histogram" else frozenset())
    for metric in DECLARED
}
GPU_ONLY = {
    "ray_node_gpus_utilization": _GPU,
    "ray_node_gpu_power_milliwatts": _GPU,
    "ray_node_gpu_temperature_celsius": _GPU,
}
BUILT_IN = {
    "up": frozenset[str](),
    "ray_serve_deployment_status": _SERVE,
    "ray_serve_deployment_replica_healthy": _SERVE | {"replica"},
    "ray_serve_autoscaling_target_replicas": _SERVE,
    "ray_serve_health_check_failures_total": _SERVE | {"replica"},
    "ray_serve_replica_processing_queries": _SERVE | {"replica"},
    "ray_serve_deployment_queued_queries": _SERVE | {"handle", "actor_id"},
    "ray_node_cpu_utilization": _NODE,
    "ray_node_mem_used": _NODE,
    "ray_node_mem_total": _NODE,
    "ray_component_rss_bytes": frozenset({"Component", "ip", "pid"}),
    "haproxy_frontend_http_responses_total": frozenset({"proxy", "code"}),
    "haproxy_frontend_current_sessions": frozenset({"proxy"}),
    "ray_serve_controller_control_loop_duration_s": frozenset({"WorkerId", "Component", "NodeAddress"}),
    **GPU_ONLY,
}
# kube-state-metrics' and the kubelet's: of objects of the cluster, by name.
OF_KUBERNETES = {
    "kube_pod_status_ready": frozenset({"condition"}),
    "kube_statefulset_status_replicas_ready": frozenset({"statefulset"}),
    "kubelet_volume_stats_available_bytes": frozenset({"persistentvolumeclaim"}),
    "kubelet_volume_stats_capacity_bytes": frozenset({"persistentvolumeclaim"}),
}


@dataclass(frozen=True)
class Asked:
    """One selector of an expression: the metric, and label -> (operator, value)."""

    metric: str
    matchers: dict[str, tuple[str, str]]


def parsed(expression: str) -> promql_parser.Expr:
    """The expression as a tree; Grafana's interval counts as five minutes. Raises ValueError."""
    return promql_parser.parse(WINDOW.sub("[5m]", expression))


def nodes(expression: str) -> list[Any]:
    """Every part of the expression."""
    found: list[Any] = []
    promql_parser.walk(parsed(expression), found.append)
    return found


def asked(expression: str) -> list[Asked]:
    """Every selector of the expression."""
    selectors = [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]
    return [
        Asked(each.name, {m.name: (str(m.op).rpartition(".")[2], m.value) for m in each.matchers.matchers})
        for each in selectors
    ]


def labels_named(expression: str) -> set[str]:
    """Every label that the expression groups or joins by."""
    named: set[str] = set()
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            named |= set(node.modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and node.modifier and node.modifier.matching:
            named |= set(node.modifier.matching.labels)
    return named


def known_labels(metrics: set[str]) -> set[str]:
    """The labels that any of these metrics has once Prometheus scraped it."""
    return set(SCRAPED).union(*((OURS | BUILT_IN | OF_KUBERNETES)[metric] for metric in metrics))


def panels(board: Object) -> list[Object]:
    """A board's panels, without the rows' headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def panel_queries() -> Iterator[tuple[str, str, Object]]:
    """Board and panel by name, and each query of it."""
    for path in BOARDS:
        board = json.loads(path.read_text())
        for panel in panels(board):
            for target in panel["targets"]:
                yield board["title"].rpartition("/ ")[2], panel["title"], target


def alerts(objects: list[Object]) -> list[Object]:
    """The alerting rules of a release."""
    (rules,) = of_kind(objects, "PrometheusRule")
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]
