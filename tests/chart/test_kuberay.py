"""The chart's RayServices against what KubeRay refuses and relies on; each rule refuses something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chart import kuberay_needs as needs
from tests.chart import kuberay_rules as rules
from tests.chart.crd import defaulted, definitions, problems
from tests.chart.render import Object, every_value_set, rayservice, render
from tests.chart.sample import changed
from tests.chart.sample import rayservice as sample

pytestmark = pytest.mark.chart

ALL = (*rules.RULES, *needs.NEEDS)
CLUSTER = "spec/rayClusterConfig"
HEAD = f"{CLUSTER}/headGroupSpec"
GPU = f"{CLUSTER}/workerGroupSpecs/0"

# Each rule with a value that breaks it, by the place in the sample where it is put.
BROKEN: list[tuple[rules.Rule, str, Any]] = [
    (rules.name_fits, "metadata/name", "a" * 48),
    (rules.name_fits, "metadata/name", "9glm"),
    (rules.initializing_timeout_is_a_duration, "metadata/annotations", {"ray.io/initializing-timeout": "soon"}),
    (rules.initializing_timeout_is_a_duration, "metadata/annotations", {"ray.io/initializing-timeout": "0s"}),
    (rules.pods_have_containers, f"{GPU}/template/spec/containers", []),
    (rules.resources_are_said_once, f"{HEAD}/resources", {"CPU": "1"}),
    (rules.labels_are_labels, f"{HEAD}/rayStartParams/labels", "a=b"),
    (rules.labels_are_labels, f"{GPU}/labels", {"zone": "not a label"}),
    (rules.replicas_are_in_order, f"{GPU}/minReplicas", 3),
    (rules.replicas_are_in_order, f"{GPU}/minReplicas", -1),
    (rules.replicas_are_in_order, f"{GPU}/replicas", 3),
    (rules.idle_timeouts_have_autoscaler_2, f"{GPU}/idleTimeoutSeconds", -1),
    (rules.idle_timeouts_have_autoscaler_2, f"{CLUSTER}/autoscalerOptions/idleTimeoutSeconds", -1),
    (rules.idle_timeouts_have_autoscaler_2, f"{CLUSTER}/autoscalerOptions", {}),
    (rules.priorities_have_autoscaler_2, f"{CLUSTER}/rayVersion", "2.55.0"),
    (rules.priorities_have_autoscaler_2, f"{CLUSTER}/autoscalerOptions", {}),
    (rules.fault_tolerance_is_said_in_one_place, "metadata/annotations", {"ray.io/ft-enabled": "true"}),
    (rules.fault_tolerance_is_said_in_one_place, "metadata/annotations", {"ray.io/external-storage-namespace": "x"}),
    (rules.fault_tolerance_is_said_in_one_place, f"{HEAD}/rayStartParams/redis-password", "secret"),
    (rules.fault_tolerance_is_said_in_one_place, f"{HEAD}/rayStartParams/redis-username", "ray"),
    (
        rules.fault_tolerance_is_said_in_one_place,
        f"{HEAD}/template/spec/containers/0/env",
        [{"name": "REDIS_PASSWORD", "value": "secret"}],
    ),
    (
        rules.fault_tolerance_is_said_in_one_place,
        f"{HEAD}/template/spec/containers/0/env",
        [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}],
    ),
    (rules.fault_tolerance_fits_its_backend, f"{CLUSTER}/gcsFaultToleranceOptions/storage", {"size": "1Gi"}),
    (rules.fault_tolerance_fits_its_backend, f"{CLUSTER}/gcsFaultToleranceOptions/redisAddress", ""),
    (rules.nothing_needs_a_feature_that_is_off, f"{CLUSTER}/networkPolicy", {"mode": "DenyAll"}),
    (rules.nothing_needs_a_feature_that_is_off, f"{CLUSTER}/tlsOptions", {"enabled": True}),
    (rules.nothing_needs_a_feature_that_is_off, f"{CLUSTER}/historyServerOptions", {}),
    (rules.nothing_needs_a_feature_that_is_off, f"{CLUSTER}/gcsFaultToleranceOptions", {"backend": "rocksdb"}),
    (rules.suspended_groups_are_not_autoscaled, f"{GPU}/suspend", True),
    (
        rules.autoscaler_version_is_said_in_one_place,
        f"{HEAD}/template/spec/containers/0/env",
        [{"name": "RAY_enable_autoscaler_v2", "value": "true"}],
    ),
    (
        rules.autoscaler_version_is_said_in_one_place,
        f"{CLUSTER}/autoscalerOptions/env",
        [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "true"}],
    ),
    (rules.autoscaler_2_restarts_nothing, f"{HEAD}/template/spec/restartPolicy", "Always"),
    (rules.autoscaler_2_restarts_nothing, f"{GPU}/template/spec/restartPolicy", "OnFailure"),
    (rules.tokens_have_a_ray_version, f"{CLUSTER}/rayVersion", ""),
    (rules.tokens_have_a_ray_version, f"{CLUSTER}/rayVersion", "2.51.2"),
    (rules.tokens_have_a_ray_version, f"{CLUSTER}/authOptions/enableK8sTokenAuth", True),
    (rules.head_service_has_no_name, f"{HEAD}/headService", {"metadata": {"name": "head"}}),
    (rules.upgrade_strategy_is_known, "spec/upgradeStrategy/type", "Recreate"),
    (rules.upgrade_strategy_is_known, f"{CLUSTER}/upgradeStrategy", {"type": "Recreate"}),
    (rules.incremental_upgrade_has_its_options, f"{CLUSTER}/enableInTreeAutoscaling", False),
    (
        rules.incremental_upgrade_has_its_options,
        "spec/upgradeStrategy",
        {"type": "NewClusterWithIncrementalUpgrade"},
    ),
    (rules.incremental_upgrade_has_its_options, "spec/upgradeStrategy/clusterUpgradeOptions/maxSurgePercent", 10),
    (rules.incremental_upgrade_has_its_options, "spec/upgradeStrategy/clusterUpgradeOptions/intervalSeconds", 0),
    (rules.incremental_upgrade_has_its_options, "spec/upgradeStrategy/clusterUpgradeOptions/gatewayClassName", ""),
    (rules.deletion_delay_is_not_negative, "spec/rayClusterDeletionDelaySeconds", -1),
    (needs.auth_options_say_their_mode, f"{CLUSTER}/authOptions", {}),
    (needs.traffic_finds_a_port, f"{HEAD}/template/spec/containers/0/ports", []),
    (needs.traffic_finds_a_port, f"{GPU}/template/spec/containers/0/ports/0/containerPort", 9000),
    (needs.traffic_finds_a_port, "spec/serveConfigV2", "http_options: {port: 9000}"),
    (needs.serve_config_is_yaml, "spec/serveConfigV2", "a: [1"),
    (needs.serve_config_is_yaml, "spec/serveConfigV2", "applications: []"),
    (needs.serve_config_is_yaml, "spec/serveConfigV2", "applications: [{name: a}, {name: a}]"),
    (needs.services_find_their_pods, f"{HEAD}/template/metadata/labels", {"app.kubernetes.io/name": "sample"}),
    (needs.services_find_their_pods, f"{GPU}/template/metadata/labels", {"ray.io/serve": "true"}),
    (needs.ray_containers_come_first, f"{GPU}/template/spec/containers/0/name", "sidecar"),
    (
        needs.operators_environment_is_left_alone,
        f"{GPU}/template/spec/containers/0/env",
        [{"name": "RAY_CLUSTER_NAME", "value": "x"}],
    ),
    (needs.ray_is_told_what_a_pod_has, f"{GPU}/template/spec/containers/0/resources", {"limits": {"memory": "1Gi"}}),
    (needs.ray_is_told_what_a_pod_has, f"{GPU}/template/spec/containers/0/resources", {"limits": {"cpu": "1"}}),
]


def admitted(resource: Object) -> Object:
    made: Object = defaulted(resource, definitions()["ray.io/v1", "RayService"])
    return made


def test_the_sample_is_sound():
    assert problems(sample()) == []
    assert [list(rule(admitted(sample()))) for rule in ALL] == [[]] * len(ALL)


@pytest.mark.parametrize(("rule", "place", "value"), BROKEN, ids=lambda each: getattr(each, "__name__", None))
def test_each_rule_refuses_what_breaks_it(rule: rules.Rule, place: str, value: Any):
    assert list(rule(admitted(changed(sample(), place, value))))


def test_no_rule_is_left_without_something_that_breaks_it():
    assert {rule.__name__ for rule in ALL} == {rule.__name__ for rule, _, _ in BROKEN}


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("files", every_value_set())
def test_kuberay_takes_what_the_chart_makes(files: tuple[Path, ...], rule: rules.Rule):
    assert list(rule(admitted(rayservice(render(*files))))) == []


@pytest.mark.parametrize("files", every_value_set())
def test_a_new_chart_version_alone_starts_no_new_cluster(files: tuple[Path, ...]):
    # raycluster hashes cover every label of the pod templates (rayservice_controller.go): one that names the chart's
    # version would replace every pod of a running service at each release of the chart.
    changing = {"helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"}
    for _, group in rules.groups_of(rayservice(render(*files))):
        assert not changing & set(group["template"]["metadata"]["labels"])
