"""What KubeRay's operator takes, the chart takes: variables of Redis, annotations of older versions, empty values."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.kuberay_rules import RULES
from tests.chart.render import Object, rayservice, render

pytestmark = pytest.mark.chart
REDIS_PASSWORD: Object = {
    "name": "REDIS_PASSWORD",
    "valueFrom": {"secretKeyRef": {"name": "company-redis", "key": "password"}},
}
CACHE_URL: Object = {"name": "GLM_CACHE__REDIS_URL", "value": "redis://:$(REDIS_PASSWORD)@redis:6379/0"}
FT_ADDRESS: Object = {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}


def accepted(values: dict[str, Any]) -> Object:
    """The RayService, of which the operator's rules complain about nothing."""
    made = rayservice(render(set=values))
    assert [complaint for rule in RULES for complaint in rule(made)] == []
    return made


def environments(made: Object) -> dict[str, list[Object]]:
    """The variables of Ray's container by the group's name."""
    cluster = made["spec"]["rayClusterConfig"]
    groups = {"head": cluster["headGroupSpec"]} | {each["groupName"]: each for each in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"]["containers"][0]["env"] for name, group in groups.items()}


def test_a_variable_for_the_password_of_a_redis_is_taken_in_all_pods_without_fault_tolerance() -> None:
    for env in environments(accepted({"extraEnv": [REDIS_PASSWORD, CACHE_URL]})).values():
        assert [each for each in env if each["name"] in ("REDIS_PASSWORD", "GLM_CACHE__REDIS_URL")] == [
            REDIS_PASSWORD,
            CACHE_URL,
        ]


@pytest.mark.parametrize(
    "name", ["REDIS_PASSWORD", "REDIS_USERNAME", "RAY_REDIS_ADDRESS", "RAY_USAGE_STATS_EXTRA_TAGS"]
)
def test_workers_take_the_variables_that_are_refused_in_the_head(name: str) -> None:
    variable = {"name": name, "value": "x"}
    made = accepted({"faultTolerance.enabled": True, "workers.cpu.extraEnv": [variable]})
    assert variable in environments(made)["cpu"]


def test_an_annotation_is_taken_where_the_value_that_means_the_same_is_empty() -> None:
    annotations = {"ray.io/initializing-timeout": "1h", "ray.io/ft-enabled": "true"}
    for path in ("annotations", "commonAnnotations"):
        made = accepted({path: annotations, "head.extraEnv": [FT_ADDRESS]})
        assert made["metadata"]["annotations"].items() >= annotations.items()
        assert FT_ADDRESS in environments(made)["head"]


def test_an_empty_value_beside_a_source_of_a_variable_is_taken() -> None:
    made = accepted({"extraEnv": [{**REDIS_PASSWORD, "value": ""}]})
    assert REDIS_PASSWORD in environments(made)["cpu"]
