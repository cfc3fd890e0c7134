"""Every pod of the chart, and each that KubeRay makes of it, is confined; each rule can refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chart import core
from tests.chart import security_rules as rules
from tests.chart.kuberay_pod import pods
from tests.chart.render import Object, every_value_set, name_of, rayservice, render
from tests.chart.sample import changed, without

pytestmark = pytest.mark.chart

POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "one"},
    "spec": {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "only",
                "image": "glm:1",
                "command": ["glm-serve", "up"],
                "env": [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "TOKEN_FILE", "value": "/run/token"}],
                "ports": [{"containerPort": 80}],
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
    },
}
ONLY = "spec/containers/0"
HARDENED = f"{ONLY}/securityContext"
BROKEN: list[tuple[rules.PodRule, str, Any]] = [
    (rules.stays_out_of_the_node, "spec/hostNetwork", True),
    (rules.stays_out_of_the_node, "spec/hostPID", True),
    (rules.stays_out_of_the_node, "spec/volumes/0", {"name": "tmp", "hostPath": {"path": "/"}}),
    (rules.stays_out_of_the_node, f"{ONLY}/ports/0/hostPort", 80),
    (rules.has_no_privileges, f"{HARDENED}/privileged", True),
    (rules.has_no_privileges, f"{HARDENED}/allowPrivilegeEscalation", True),
    (rules.has_no_privileges, HARDENED, {}),
    (rules.has_no_privileges, f"{HARDENED}/capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    (rules.has_no_privileges, "spec/initContainers", [{"name": "first"}]),
    (rules.is_not_root, "spec/securityContext/runAsNonRoot", False),
    (rules.is_not_root, f"{HARDENED}/runAsUser", 0),
    (rules.has_the_usual_confinement, "spec/securityContext/seccompProfile", None),
    (rules.has_the_usual_confinement, f"{HARDENED}/seccompProfile", {"type": "Unconfined"}),
    (rules.has_the_usual_confinement, f"{HARDENED}/procMount", "Unmasked"),
    (rules.has_the_usual_confinement, "spec/securityContext/sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    (rules.writes_only_to_volumes, f"{HARDENED}/readOnlyRootFilesystem", False),
    (rules.bounds_its_volumes, "spec/volumes/0/emptyDir", {"medium": "Memory"}),
    (rules.says_what_it_takes, f"{ONLY}/resources", {"limits": {"memory": "1Gi"}}),
    (rules.says_what_it_takes, f"{ONLY}/resources", {"requests": {"cpu": 1, "memory": "1Gi"}}),
    (rules.has_a_token_only_to_call_the_api_server, "spec/automountServiceAccountToken", None),
    (rules.has_pinned_images, f"{ONLY}/image", "glm"),
    (rules.has_pinned_images, f"{ONLY}/image", "registry:5000/glm:latest"),
    (rules.says_no_secret, f"{ONLY}/env", [{"name": "REDIS_PASSWORD", "value": "hunter2"}]),
    (rules.says_no_secret, f"{ONLY}/env", [{"name": "HF_TOKEN", "value": "hf_abc"}]),
    (rules.says_no_secret, f"{ONLY}/env", [{"name": "CACHE", "value": "redis://:hunter2@redis:6379"}]),
    (rules.says_no_secret, f"{ONLY}/args", ["redis-server --requirepass hunter2"]),
]
OBJECTS: list[tuple[rules.PodRule, Object]] = [
    (rules.stays_in_its_namespace, {"kind": "ClusterRole"}),
    (rules.stays_in_its_namespace, {"kind": "Role", "rules": [{"verbs": ["*"]}]}),
    (rules.stays_in_its_namespace, {"kind": "ServiceAccount"}),
    (rules.is_not_open_to_the_world, {"kind": "Service", "spec": {"type": "LoadBalancer"}}),
    (rules.config_says_no_secret, {"kind": "ConfigMap", "data": {"password": "hunter2"}}),
    (
        rules.config_says_no_secret,
        {"kind": "RayService", "spec": {"serveConfigV2": "applications: [{args: {auth: {api_key: sk-1}}}]"}},
    ),
    (
        rules.config_says_no_secret,
        {"kind": "RayService", "spec": {"serveConfigV2": "{args: {cache: {url: 'redis://ray:hunter2@redis'}}}"}},
    ),
]


@pytest.mark.parametrize("rule", rules.POD_RULES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("files", every_value_set())
def test_every_pod_is_confined(files: tuple[Path, ...], rule: rules.PodRule):
    objects = render(*files)
    own = [(name, each) for resource in objects for name, each in core.pod_templates(resource) if "RayS" not in name]
    for name, pod in [*own, *((name_of(pod), pod) for pod in pods(rayservice(objects)))]:
        assert list(rule(pod)) == [], name


@pytest.mark.parametrize("rule", rules.OBJECT_RULES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("files", every_value_set())
def test_every_object_keeps_to_itself(files: tuple[Path, ...], rule: rules.PodRule):
    for resource in render(*files):
        assert list(rule(resource)) == [], name_of(resource)


def test_the_pod_that_the_next_test_breaks_is_sound():
    assert [list(rule(POD)) for rule in rules.POD_RULES] == [[]] * len(rules.POD_RULES)


@pytest.mark.parametrize(("rule", "place", "value"), BROKEN, ids=lambda each: getattr(each, "__name__", None))
def test_each_rule_refuses_what_breaks_it(rule: rules.PodRule, place: str, value: Any):
    assert list(rule(changed(POD, place, value)))


@pytest.mark.parametrize(("rule", "resource"), OBJECTS, ids=lambda each: getattr(each, "__name__", None))
def test_each_rule_on_objects_refuses_what_breaks_it(rule: rules.PodRule, resource: Object):
    assert list(rule(resource))


def test_no_rule_is_left_without_something_that_breaks_it():
    assert {rule.__name__ for rule in rules.POD_RULES} == {rule.__name__ for rule, _, _ in BROKEN}
    assert {rule.__name__ for rule in rules.OBJECT_RULES} == {rule.__name__ for rule, _ in OBJECTS}


def test_a_pod_mounts_a_token_by_default():
    assert list(rules.has_a_token_only_to_call_the_api_server(without(POD, "spec/automountServiceAccountToken")))


def test_settings_about_tokens_of_text_are_no_secrets():
    config = "{args: {engine: {max_tokens: '4', target_tokens_in_flight: 'a'}, auth: {api_keys_file: keys.txt}}}"
    assert list(rules.config_says_no_secret({"kind": "RayService", "spec": {"serveConfigV2": config}})) == []
