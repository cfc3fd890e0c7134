"""KubeRay's Services find their pods, and all that the chart points at a Service finds one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart import core
from tests.chart.kuberay_pod import cluster_name, pods
from tests.chart.kuberay_services import serve_service, services
from tests.chart.render import Object, every_value_set, name_of, of_kind, rayservice, refusal, render
from tests.chart.sample import changed
from tests.chart.sample import rayservice as sample

pytestmark = pytest.mark.chart

VALUE_SETS = pytest.mark.parametrize("files", every_value_set())


def selected(service: Object, made: list[Object]) -> list[str]:
    """The component of each pod that a Service selects."""
    wanted = service["spec"]["selector"].items()
    return [
        each["metadata"]["labels"]["ray.io/node-type"] for each in made if wanted <= each["metadata"]["labels"].items()
    ]


def backends(resource: Object) -> Iterator[tuple[str, int]]:
    """Service and port of each place that an Ingress or a route sends to."""
    for rule in resource["spec"]["rules"]:
        for path in rule.get("http", {}).get("paths", ()):
            service = path["backend"]["service"]
            yield service["name"], service["port"]["number"]
        for backend in rule.get("backendRefs", ()):
            yield backend["name"], backend["port"]


def addresses(objects: list[Object]) -> Iterator[tuple[str, int]]:
    """Host and port of every http address in the environment of the chart's own pods; a host with a dot is outside."""
    for resource in objects:
        for _, template in core.pod_templates(resource):
            for container in core.containers(template):
                for variable in container.get("env") or ():
                    match = re.match(r"http://([^:/.]+):(\d+)", variable.get("value") or "")
                    if match:
                        yield match[1], int(match[2])


def test_services_of_the_sample_are_named_as_the_operator_names_them():
    assert [name_of(each) for each in services(sample())] == [
        "Service/sample-head-svc",
        "Service/sample-abcde-head-svc",
        "Service/sample-abcde-serve-svc",  # an incremental upgrade: one for each cluster
    ]
    plain = changed(sample(), "spec/upgradeStrategy", {"type": "NewCluster"})
    assert serve_service(plain)["metadata"]["name"] == "sample-serve-svc"


@VALUE_SETS
def test_the_services_select_the_head_and_the_workers(files: tuple[Path, ...]):
    resource = rayservice(render(*files))
    made = pods(resource)
    of_the_head, of_its_workers, of_questions = services(resource)
    assert selected(of_the_head, made) == selected(of_its_workers, made) == ["head"]
    assert selected(of_questions, made) == ["worker"] * (len(made) - 1)


@VALUE_SETS
def test_the_service_of_questions_has_the_port_where_workers_listen(files: tuple[Path, ...]):
    resource = rayservice(render(*files))
    (port,) = serve_service(resource)["spec"]["ports"]
    for pod in pods(resource)[1:]:
        listening = {each["name"]: each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]}
        assert listening["serve"] == port["port"]


@VALUE_SETS
def test_whatever_points_at_a_service_finds_it(files: tuple[Path, ...]):
    objects = render(*files)
    there = [*services(rayservice(objects)), *of_kind(objects, "Service")]
    known = {(each["metadata"]["name"], port["port"]) for each in there for port in each["spec"]["ports"]}
    pointed = {*addresses(objects)}.union(*map(backends, of_kind(objects, "Ingress") + of_kind(objects, "HTTPRoute")))
    assert pointed <= known
    assert all(cluster_name(rayservice(objects)) not in name for name, _ in pointed)  # drawn anew for each cluster


@pytest.mark.parametrize("route", ["ingress", "gateway"])
def test_a_route_to_a_service_that_an_incremental_upgrade_does_not_make_is_refused(route: str):
    said = refusal(
        set={
            "upgrade.strategy": "NewClusterWithIncrementalUpgrade",
            "upgrade.incremental.gatewayClassName": "istio",
            f"{route}.enabled": True,
            "gateway.parentRefs": [{"name": "public"}],
        }
    )
    assert route in said
