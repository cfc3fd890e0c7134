"""Every custom resource of the chart against its definition; the checker against broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chart import crd
from tests.chart.cel import KNOWN, program, rules_of, verdicts
from tests.chart.crds.compact import compact
from tests.chart.render import HELMS, Object, every_value_set, name_of, render
from tests.chart.sample import changed, without
from tests.chart.sample import rayservice as sample

pytestmark = pytest.mark.chart

VALUE_SETS = pytest.mark.parametrize("files", every_value_set())
CLUSTER = "spec/rayClusterConfig"
GPU = f"{CLUSTER}/workerGroupSpecs/0"
STORED = [pytest.param(schema, id=kind) for (_, kind), schema in crd.definitions().items()]

ROUTE: Object = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "glm"},
    "spec": {
        "parentRefs": [{"name": "public"}],
        "hostnames": ["glm.example.org"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "glm-serve-svc", "port": 8000}],
                "timeouts": {"request": "300s", "backendRequest": "300s"},
            }
        ],
    },
}
MONITOR: Object = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "PodMonitor",
    "metadata": {"name": "glm"},
    "spec": {"selector": {"matchLabels": {"a": "b"}}, "podMetricsEndpoints": [{"port": "metrics", "interval": "15s"}]},
}
ALERTS: Object = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "PrometheusRule",
    "metadata": {"name": "glm"},
    "spec": {"groups": [{"name": "glm", "rules": [{"alert": "Down", "expr": "up == 0", "for": "1m"}]}]},
}
SOUND = [sample(), ROUTE, MONITOR, ALERTS]


@VALUE_SETS
@pytest.mark.parametrize("helm", HELMS)
def test_every_custom_resource_is_valid(helm: str, files: tuple[Path, ...]):
    for resource in render(*files, helm=helm):
        if (resource["apiVersion"], resource["kind"]) in crd.definitions():
            assert crd.problems(resource) == [], name_of(resource)


@VALUE_SETS
def test_every_kind_that_is_not_kubernetes_own_is_checked(files: tuple[Path, ...]):
    # Kubernetes' own groups have no dot, or end in k8s.io and are no gateway's.
    for resource in render(*files):
        group = resource["apiVersion"].rpartition("/")[0]
        if "." in group and (not group.endswith(".k8s.io") or group.startswith("gateway.")):
            assert (resource["apiVersion"], resource["kind"]) in crd.definitions()


@VALUE_SETS
def test_installing_twice_changes_nothing_that_may_not_change(files: tuple[Path, ...]):
    for resource in render(*files):
        if (resource["apiVersion"], resource["kind"]) in crd.definitions():
            assert crd.problems(resource, old=resource) == []


@pytest.mark.parametrize("resource", SOUND, ids=name_of)
def test_the_resources_that_the_next_tests_break_are_sound(resource: Object):
    assert crd.problems(resource) == []
    assert crd.problems(resource, old=resource) == []


@pytest.mark.parametrize(
    ("resource", "place", "value"),
    [
        (sample(), f"{GPU}/template/spec/containers/0/resources/limitz", {}),
        (sample(), f"{CLUSTER}/enableInTreeAutoScaling", True),
        (sample(), f"{CLUSTER}/headGroupSpec/rayStartParam", {}),
        (sample(), "spec/serveConfig", "a"),
        (sample(), "metadata/label", {}),
        (sample(), "metadata/labels", {"a": "not a value"}),
        (sample(), "metadata/name", "Sample"),
        (sample(), f"{GPU}/maxReplicas", "2"),
        (sample(), f"{GPU}/maxReplicas", 2**31),
        (sample(), f"{GPU}/template/spec/containers/0/ports/0/containerPort", "http"),
        (sample(), f"{GPU}/template/spec/containers/0/resources/limits/memory", [1]),
        (sample(), f"{CLUSTER}/authOptions/mode", "tokens"),
        (sample(), f"{CLUSTER}/headGroupSpec/rayStartParams/num-cpus", 0),
        (ROUTE, "spec/hostnames", ["not a host"]),
        (ROUTE, "spec/rules/0/timeouts/request", "5 minutes"),
        (MONITOR, "spec/podMetricsEndpoints/0/intervall", "15s"),
        (MONITOR, "spec/podMetricsEndpoints/0/interval", "often"),
        (ALERTS, "spec/groups/0/rules/0/expression", "up"),
    ],
)
def test_an_unknown_field_or_a_wrong_value_is_refused(resource: Object, place: str, value: Any):
    assert crd.problems(changed(resource, place, value))


@pytest.mark.parametrize(
    ("resource", "place"),
    [
        (sample(), CLUSTER),
        (sample(), f"{CLUSTER}/headGroupSpec"),
        (sample(), f"{GPU}/groupName"),
        (sample(), f"{GPU}/template"),
        (sample(), f"{GPU}/template/spec/containers"),
        (sample(), "metadata/name"),
        (ROUTE, "spec/rules/0/backendRefs/0/name"),
        (MONITOR, "spec/selector"),
        (ALERTS, "spec/groups/0/rules/0/expr"),
    ],
)
def test_a_missing_field_is_refused(resource: Object, place: str):
    assert any("is a required property" in each for each in crd.problems(without(resource, place)))


def test_what_has_to_be_unique_in_a_list_is():
    twice = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    broken = changed(sample(), f"{GPU}/template/spec/containers/0/env", twice)
    assert crd.problems(broken) == [
        'spec.rayClusterConfig.workerGroupSpecs.0.template.spec.containers.0.env: two items have name = "A"'
    ]


def test_a_null_is_as_good_as_nothing():
    assert crd.problems(changed(sample(), f"{GPU}/template/spec/nodeSelector", None)) == []
    assert crd.problems(changed(sample(), f"{CLUSTER}/rayVersion", None)) == []
    assert crd.problems(changed(sample(), GPU.removesuffix("/0"), [None]))


def test_defaults_are_filled_in_before_required_fields_are_checked():
    bare = without(without(without(sample(), f"{GPU}/minReplicas"), f"{GPU}/maxReplicas"), f"{GPU}/replicas")
    assert crd.problems(bare) == []
    group = crd.defaulted(bare, crd.definitions()["ray.io/v1", "RayService"])["spec"]["rayClusterConfig"]
    filled = group["workerGroupSpecs"][0]
    assert (filled["minReplicas"], filled["replicas"], filled["maxReplicas"]) == (0, 0, 2**31 - 1)
    assert filled["template"]["spec"]["containers"][0]["ports"][0]["protocol"] == "TCP"


@pytest.mark.parametrize(
    ("resource", "place", "value", "said"),
    [
        (
            sample(),
            "spec/managedBy",
            "me",
            "spec.managedBy: the managedBy field value must be either 'ray.io/kuberay-operator' or"
            " 'kueue.x-k8s.io/multikueue'",
        ),
        (
            ROUTE,
            "spec/rules/0/matches/0/path/value",
            "v1",
            "spec.rules[0].matches[0].path: value must be an absolute path and start with '/' when type one of"
            " ['Exact', 'PathPrefix']",
        ),
        (
            ROUTE,
            "spec/rules/0/timeouts/backendRequest",
            "301s",
            "spec.rules[0].timeouts: backendRequest timeout cannot be longer than request timeout",
        ),
        (
            ROUTE,
            "spec/rules/0/backendRefs/0",
            {"name": "glm-serve-svc"},
            "spec.rules[0].backendRefs[0]: Must have port for Service reference",
        ),
        (
            ROUTE,
            "spec/parentRefs",
            [{"name": "public"}, {"name": "public"}],
            "spec.parentRefs: sectionName must be unique when parentRefs includes 2 or more references to the same"
            " parent",
        ),
    ],
)
def test_a_broken_rule_is_reported_with_its_place_and_message(resource: Object, place: str, value: Any, said: str):
    assert crd.problems(changed(resource, place, value)) == [said]


def test_a_field_that_may_not_change_is_refused_on_an_update_only():
    before = changed(sample(), "spec/managedBy", "ray.io/kuberay-operator")
    after = changed(sample(), "spec/managedBy", "kueue.x-k8s.io/multikueue")
    assert crd.problems(after) == []
    assert crd.problems(after, old=before) == ["spec.managedBy: the managedBy field is immutable"]
    assert crd.problems(before, old=sample()) == []  # it was not there: nothing changed


def test_items_with_keys_are_matched_by_key_on_an_update():
    item = {"type": "object", "properties": {"size": {"x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}
    rules = rules_of({"items": item, "x-kubernetes-list-map-keys": ["name"]})
    old = [{"name": "a", "size": 5}, {"name": "b", "size": 1}]
    assert verdicts(rules, [{"name": "b", "size": 2}, {"name": "c", "size": 0}], old) == []
    assert verdicts(rules, [{"name": "b", "size": 2}, {"name": "a", "size": 4}], old) == ["[1].size: self >= oldSelf"]


def test_values_of_a_map_and_reserved_names_are_reached():
    rule = {"x-kubernetes-validations": [{"rule": "self.__namespace__ != 'x'"}]}
    rules = rules_of({"additionalProperties": rule})
    assert verdicts(rules, {"a": {"namespace": "y"}, "b": {"namespace": "x"}}, None) == ["b: self.__namespace__ != 'x'"]


def test_a_rule_that_fails_to_evaluate_refuses():
    (said,) = verdicts(rules_of({"x-kubernetes-validations": [{"rule": "self.a > 1"}]}), {}, None)
    assert "self.a > 1 can't be evaluated" in said


# What cel-python can't evaluate: rules of fields that the chart does not set.
BEYOND = {"isURL(self) && !self.matches('@')"}  # proxyUrl of a PodMonitoring


@pytest.mark.parametrize("schema", STORED)
def test_no_rule_is_beyond_the_library(schema: Object):
    for rule in rules_of(schema):
        if rule.expression in BEYOND:
            continue
        program(rule.expression)
        assert rule.calls <= KNOWN, rule.expression


def test_the_stored_definitions_have_the_rules_that_are_checked():
    counts = {kind: len(rules_of(schema)) for (_, kind), schema in crd.definitions().items()}
    assert counts == {
        **{"HTTPRoute": 77, "PodMonitor": 0, "PrometheusRule": 0, "RayService": 5},
        **{"PodMonitoring": 17, "Rules": 2},
    }


@pytest.mark.parametrize("schema", STORED)
def test_every_format_of_a_definition_is_checked(schema: Object):
    def formats(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(formats, value))
        if not isinstance(value, dict):
            return set()
        own = {value["format"]} if isinstance(value.get("format"), str) else set()
        return own.union(*map(formats, value.values()))

    assert formats(schema) <= set(crd.FORMATS.checkers)


def test_a_compact_definition_keeps_everything_but_descriptions():
    schema = {
        "description": "gone",
        "type": "object",
        "properties": {"description": {"type": "string", "description": "gone", "default": {"description": "kept"}}},
        "anyOf": [{"description": "gone", "required": ["description"]}],
    }
    version = {"name": "v1", "schema": {"openAPIV3Schema": schema}}
    definition = {"spec": {"group": "g", "names": {"kind": "K"}, "versions": [{"name": "v0"}, version]}}
    assert compact(definition, "v1") == {
        "group": "g",
        "kind": "K",
        "version": "v1",
        "schema": {
            "type": "object",
            "properties": {"description": {"type": "string", "default": {"description": "kept"}}},
            "anyOf": [{"required": ["description"]}],
        },
    }


def test_fields_that_a_definition_keeps_open_stay_open():
    schema = {"type": "object", "properties": {"a": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    assert crd.strict(schema)["properties"]["a"].get("additionalProperties") is None
    assert crd.strict(schema)["additionalProperties"] is False
    assert json.dumps(schema).count("additionalProperties") == 0
