"""Every object and pod template is valid on Kubernetes 1.29 to 1.36, and what they name is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart import core, crd
from tests.chart.kuberay_rules import LONGEST_NAME, name_fits
from tests.chart.render import HELMS, Object, every_value_set, name_of, of_kind, rayservice, render
from tests.chart.sample import changed, without
from tests.chart.sample import rayservice as sample

pytestmark = pytest.mark.chart

VALUE_SETS = pytest.mark.parametrize("files", every_value_set())
RELEASES = pytest.mark.parametrize("release", core.RELEASES)

POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "one", "labels": {"a": "b"}},
    "spec": {
        "containers": [
            {
                "name": "only",
                "image": "glm:1",
                "ports": [{"name": "http", "containerPort": 80}],
                "env": [{"name": "A", "value": "b"}],
                "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi", "nvidia.com/gpu": 1}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}
ONLY = "spec/containers/0"


def is_custom(resource: Object) -> bool:
    return (resource["apiVersion"], resource["kind"]) in crd.definitions()


@RELEASES
@VALUE_SETS
@pytest.mark.parametrize("helm", HELMS)
def test_every_object_is_valid_on_this_kubernetes(helm: str, files: tuple[Path, ...], release: str):
    for resource in render(*files, helm=helm):
        if not is_custom(resource):
            assert core.schema_problems(resource, release) == [], name_of(resource)


@RELEASES
@VALUE_SETS
def test_every_pod_template_is_valid_on_this_kubernetes(files: tuple[Path, ...], release: str):
    # The definition of RayService is looser than a Pod: it takes any string for restartPolicy, for one.
    for resource in render(*files):
        for name, template in core.pod_templates(resource):
            assert core.schema_problems(core.as_pod(name, template), release) == [], name


@VALUE_SETS
def test_no_object_breaks_a_rule_beyond_the_schemas(files: tuple[Path, ...]):
    for resource in render(*files):
        assert core.unsaid_problems(resource) == [], name_of(resource)


@VALUE_SETS
def test_no_two_objects_have_one_name(files: tuple[Path, ...]):
    names = [(each["apiVersion"], name_of(each)) for each in render(*files)]
    assert len(set(names)) == len(names)


def test_the_longest_name_makes_no_name_too_long():
    objects = render("values-cluster.yaml", set={"fullnameOverride": "r" * LONGEST_NAME})
    assert [each for resource in objects for each in core.unsaid_problems(resource)] == []
    assert list(name_fits(rayservice(objects))) == []


def named_by(resource: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of what an object needs to be there when it comes: of the release, or of the user's."""
    for _, template in core.pod_templates(resource):
        spec = template["spec"]
        if spec.get("serviceAccountName"):
            yield "ServiceAccount", spec["serviceAccountName"]
        for volume in spec.get("volumes") or ():
            for kind, field, key in (
                ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
                ("ConfigMap", "configMap", "name"),
                ("Secret", "secret", "secretName"),
            ):
                if field in volume:
                    yield kind, volume[field][key]
        for container in core.containers(template):
            sources = [each.get("valueFrom", {}) for each in container.get("env") or ()]
            for source in [*sources, *(container.get("envFrom") or ())]:
                for kind, field in (
                    ("Secret", "secretKeyRef"),
                    ("ConfigMap", "configMapKeyRef"),
                    ("Secret", "secretRef"),
                ):
                    if field in source:
                        yield kind, source[field]["name"]


@pytest.mark.parametrize("name", ["cpu-demo", "single-24g", "cluster"])
def test_all_that_a_profile_names_is_in_it(name: str):
    objects = render(f"values-{name}.yaml")
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    assert {needed for each in objects for needed in named_by(each)} <= there


@VALUE_SETS
def test_every_service_of_ours_selects_pods_of_ours(files: tuple[Path, ...]):
    objects = render(*files)
    made = [
        (template.get("metadata") or {}).get("labels") or {}
        for each in objects
        for _, template in core.pod_templates(each)
    ]
    for service in of_kind(objects, "Service"):
        assert any(service["spec"]["selector"].items() <= labels.items() for labels in made), name_of(service)


@RELEASES
def test_the_pod_that_the_next_tests_break_is_sound(release: str):
    assert core.schema_problems(POD, release) == []
    assert core.unsaid_problems(POD) == []


@RELEASES
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (f"{ONLY}/resources/limitz", {"memory": "1Gi"}),
        (f"{ONLY}/imagePulPolicy", "Always"),
        (f"{ONLY}/securityContext", {"runAsNonroot": True}),
        (f"{ONLY}/ports/0/containerPort", "80"),
        (f"{ONLY}/env/0/value", 1),
        ("spec/tolerations", [{"key": "gpu", "effect": "NoSchedul", "operater": "Exists"}]),
        ("spec/containers", {}),
    ],
)
def test_a_typo_or_a_wrong_type_is_refused(place: str, value: Any, release: str):
    assert core.schema_problems(changed(POD, place, value), release)


@RELEASES
def test_a_missing_field_is_refused(release: str):
    assert core.schema_problems(without(POD, f"{ONLY}/name"), release)


@pytest.mark.parametrize("release", core.RELEASES)
def test_a_typo_in_a_template_of_a_rayservice_is_refused(release: str):
    place = "spec/rayClusterConfig/headGroupSpec/template/spec/containers/0/resources/limitz"
    broken = changed(sample(), place, {})
    assert any(
        core.schema_problems(core.as_pod(name, template), release) for name, template in core.pod_templates(broken)
    )


def test_a_name_too_long_for_its_kind_is_reported():
    long = {"kind": "StatefulSet", "metadata": {"name": "a" * 53}}
    assert core.unsaid_problems(long) == [f"metadata.name {'a' * 53!r} is too long"]


def test_an_unknown_kind_is_reported():
    with pytest.raises(KeyError, match=r"1\.29 has no policy/v1beta1 PodDisruptionBudget"):
        core.schema_problems({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget"}, "1.29")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("metadata/name", "One", "metadata.name 'One' is no DNS name"),
        ("metadata/labels/a", "no label", "label a='no label' is no label value"),
        ("metadata/labels/a", True, "label a=True is no label value"),
        ("metadata/labels/-a", "b", "label '-a' is no label name"),
        ("metadata/annotations", {"a": 1}, "annotation a=1 is no string"),
        (f"{ONLY}/volumeMounts/0/name", "temp", "container only: mounts 'temp', which is no volume"),
        (f"{ONLY}/ports/0/name", "a-name-of-sixteen", "container only: port name 'a-name-of-sixteen' is none"),
        (f"{ONLY}/ports/0/name", "80", "container only: port name '80' is none"),
        (f"{ONLY}/env", [{"name": "A"}, {"name": "A"}], "container only: one environment variable is set twice"),
        (
            f"{ONLY}/env",
            [{"name": "A", "value": "b", "valueFrom": {}}],
            "container only: variable A has a value and a source",
        ),
        (f"{ONLY}/resources/limits/memory", "2GB", "container only: memory: '2GB' is no quantity"),
        (f"{ONLY}/resources/limits/memory", "1G", "container only: memory: the request 1Gi is above the limit 1G"),
        (
            f"{ONLY}/resources/requests",
            {"nvidia.com/gpu": 2},
            "container only: nvidia.com/gpu: the request 2 is above the limit 1",
        ),
        (
            f"{ONLY}/resources/requests",
            {"amd.com/gpu": 1},
            "container only: amd.com/gpu: a request needs an equal limit",
        ),
        ("spec/volumes", [{"name": "tmp"}, {"name": "tmp"}], "two volumes have one name"),
        ("spec/initContainers", [{"name": "only"}], "two containers have one name"),
    ],
)
def test_what_no_schema_has_is_reported(place: str, value: Any, said: str):
    assert [each.removeprefix("Pod/one: ") for each in core.unsaid_problems(changed(POD, place, value))][:1] == [said]
