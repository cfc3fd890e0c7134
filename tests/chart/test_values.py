"""values.yaml and its schema: every value has an effect, every unknown name is refused, settings as in the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from serve_app.settings import Settings
from tests.chart.render import CHART, PROFILES, Object, ci_value_sets, render

pytestmark = pytest.mark.chart

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

# What has to be on for a value to have its effect, by the longest beginning of its name.
CONDITIONS: dict[str, dict[str, Any]] = {
    "image.tag": {"image.digest": ""},
    "cache.secret.passwordKey": {"cache.secret.name": "cache"},
    "cache.secret.signingKey": {"cache.secret.name": "cache"},
    "audit.mountPath": {"audit.existingClaim": "audit"},
    "auth.keysSecret.key": {"auth.keysSecret.name": "keys"},
    "auth.jwtSecret.key": {"auth.jwtSecret.name": "jwt"},
    "auth.limitsRedisSecret.key": {"auth.limitsRedisSecret.name": "redis"},
    "auth.widgetSecret.key": {"auth.widgetSecret.name": "widget"},
    "auth.testKeySecret.key": {"auth.testKeySecret.name": "key"},
    "stages.engine.downscaleToZeroDelaySeconds": {"stages.engine.replicas.min": 0},
    "stages.engine.replicas.max": {"workers.gpu.replicas.max": 9},
    "stages.ingress.replicas.min": {"stages.ingress.replicas.max": 4},
    "modelStorage.size": {"modelStorage.create": True},
    "modelStorage.storageClassName": {"modelStorage.create": True},
    "modelStorage.accessModes": {"modelStorage.create": True},
    "modelStorage.hubTokenSecret.key": {"modelStorage.hubTokenSecret.name": "hub"},
    "modelStorage.fetch": {"modelStorage.fetch.enabled": True, "modelStorage.fetch.image": "rclone"},
    "modelStorage.fetch.enabled": {"modelStorage.fetch.image": "rclone"},
    "modelStorage.readOnly": {"modelStorage.existingClaim": "weights"},
    "workers.cpu.stages": {"workers.gpu.stages": ["preprocess", "engine"], "workers.gpu.replicas.max": 9},
    "autoscaler.enabled": {"workers.cpu.replicas.min": 4},
    "upgrade.incremental": {
        "upgrade.strategy": "NewClusterWithIncrementalUpgrade",
        "upgrade.incremental.gatewayClassName": "istio",
    },
    "faultTolerance.externalAddress": {"faultTolerance.enabled": True},
    "faultTolerance.passwordSecret": {"faultTolerance.enabled": True},
    "faultTolerance.username": {
        "faultTolerance.enabled": True,
        "faultTolerance.externalAddress": "redis.example.com:6379",
    },
    "faultTolerance.caSecret": {
        "faultTolerance.enabled": True,
        "faultTolerance.externalAddress": "redis.example.com:6379",
        "faultTolerance.caSecret.name": "ca",
    },
    "redis": {"faultTolerance.enabled": True},
    "uninstall": {"faultTolerance.enabled": True},
    "publish": {"ingress.enabled": True},
    "ingress": {"ingress.enabled": True},
    "ingress.enabled": {},
    "ingress.nginx.burstMultiplier": {"ingress.enabled": True, "ingress.nginx.requestsPerSecond": 5},
    "gateway": {"gateway.enabled": True, "gateway.parentRefs": [{"name": "public"}]},
    "gateway.enabled": {"gateway.parentRefs": [{"name": "public"}]},
    "podDisruptionBudget": {"workers.cpu.replicas.min": 2},
    "monitoring.api": {"monitoring.podMonitor.enabled": True},
    "monitoring.podMonitor": {"monitoring.podMonitor.enabled": True},
    "monitoring.prometheusRule": {"monitoring.prometheusRule.enabled": True},
    "monitoring.dashboards": {"monitoring.dashboards.enabled": True},
    "monitoring.podMonitor.enabled": {},
    "monitoring.prometheusRule.enabled": {},
    "monitoring.dashboards.enabled": {},
    "extraVolumeMounts": {"extraVolumes": [{"name": "company", "emptyDir": {}}]},
}

# Another value, where the type alone does not say what may be there.
OTHERS: dict[str, Any] = {
    "image.digest": "sha256:" + "1" * 64,
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["login"],
    "settings": {"engine": {"max_slots": 3}},
    "auth.anonymous": None,  # test_access
    "stages.ingress.cpus": 0.25,
    "stages.preprocess.cpus": 0.75,
    "stages.engine.replicas.min": 0,
    "stages.engine.gpus": 0.5,
    "stages.engine.targetKvUse": 0.5,
    "workers.cpu.enabled": None,  # test_a_group_that_is_off_is_not_there
    "workers.gpu.enabled": None,
    "workers.gpu.replicas.min": 0,
    "workers.cpu.stages": ["ingress"],
    "workers.gpu.stages": ["engine", "preprocess"],
    "workers.gpu.gpuResource": "amd.com/gpu",
    "modelStorage.mountPath": "/weights",
    "modelStorage.accessModes": ["ReadWriteOnce"],
    "modelStorage.storageClassName": "",
    "modelStorage.volume": {"nfs": {"server": "nas", "path": "/models"}},
    "modelStorage.fetch.env": [{"name": "A", "value": "b"}],
    "modelStorage.fetch.command": ["sh"],
    "modelStorage.fetch.args": ["copy"],
    "autoscaler.upscalingMode": "Aggressive",
    "autoscaler.enabled": False,
    "upgrade.strategy": "None",
    "upgrade.incremental.maxSurgePercent": 60,
    "upgrade.initializingTimeout": "1h",
    # Only in an upgrade of what runs in a cluster: tests/chart/test_settings_check.py.
    **{f"upgrade.check.{name}": None for name in ("enabled", "resources.requests.cpu", "resources.requests.memory")},
    "upgrade.check.resources.limits.memory": None,
    "faultTolerance.externalAddress": "redis.example.com:6379",
    "redis.persistence.storageClassName": "-",
    "rayAuth": "disabled",
    "ingress.extraHosts": ["glm.example.org"],
    "gateway.hostnames": ["glm.example.com"],
    "networkPolicy.operatorNamespace": "operators",
    "networkPolicy.dnsPorts": [5353],
    "networkPolicy.apiServerPorts": [8443],
    "monitoring.api": "monitoring.googleapis.com",
    "monitoring.prometheusRule.alerts": {"GlmQueue": {"for": "1h"}},
    "monitoring.podMonitor.interval": "60s",
    "monitoring.prometheusRule.vramFraction": 0.5,
    "monitoring.prometheusRule.errorFraction": 0.5,
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"secretRef": {"name": "proxy"}}],
    "extraVolumes": [{"name": "company", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "company", "mountPath": "/company"}],
    "extraInitContainers": [{"name": "first", "image": "busybox"}],
    "extraContainers": [{"name": "beside", "image": "busybox"}],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}}],
    "serveService.type": "LoadBalancer",
    "overrides.workers": {"cpu": {"spec": {"enableServiceLinks": False}}},
}
OF_KUBERNETES = {
    "podSecurityContext",
    "nodeSelector",
    "affinity",
    "resources",
    "settings",
    "volume",
    "overrides",
    "serveService",
}
# Free objects of Kubernetes: one key more is the change.
GROWN = {"nodeSelector": {"a": "b"}, "affinity": {"podAntiAffinity": {}}, "podLabels": {"a": "b"}}


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of values.yaml with its name; what stands in a list or an empty object counts as one."""
    if isinstance(values, dict) and values and not path.endswith(("podAnnotations", "labels", "podSecurityContext")):
        for name, value in values.items():
            yield from leaves(value, f"{path}.{name}".lstrip("."))
    else:
        yield path, values


def other(path: str, value: Any) -> Any:
    """A value that is not this one, of its kind."""
    if path in OTHERS:
        return OTHERS[path]
    last = path.rpartition(".")[2]
    if last == "memory":
        return "48Mi" if path.endswith("requests.memory") else "30Gi"  # a request is at most the limit
    if last in {"size", "sizeLimit", "emptyDirSizeLimit"}:
        return "3Gi"
    if last in {"sharedMemory", "temporaryStorage"}:
        return "1Gi"
    if last == "cpu":
        return "7"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x" if value else "other"
    if isinstance(value, dict):
        return {**value, **GROWN.get(last, {"x": "y"})}
    items = {"tolerations": {"operator": "Exists"}, "parentRefs": {"name": "other"}}
    items |= {name: {"ports": [{"port": 8443}]} for name in ("egress", "extraEgress")}
    return [*value, items.get(last, {"podSelector": {}})]


def condition(path: str) -> dict[str, Any]:
    fitting = [name for name in CONDITIONS if path == name or path.startswith(f"{name}.")]
    return CONDITIONS[max(fitting, key=len)] if fitting else {}


def without_passwords(objects: list[Object]) -> list[Object]:
    return [each for each in objects if each["kind"] != "Secret"]


@pytest.mark.parametrize(("path", "value"), list(leaves(DEFAULTS)))
def test_every_value_has_an_effect(path: str, value: Any) -> None:
    changed = other(path, value)
    if changed is None:
        return
    before = without_passwords(render(set=condition(path)))
    after = without_passwords(render(set=condition(path) | {path: changed}))
    assert before != after


@pytest.mark.parametrize("section", [name for name, value in DEFAULTS.items() if isinstance(value, dict)])
def test_a_name_that_is_not_in_values_yaml_is_refused_at_every_level(section: str) -> None:
    for path in objects_within(DEFAULTS[section], (section,)):
        if path[-1].lower().endswith(("annotations", "labels")) or path == ("workers",) or OF_KUBERNETES & set(path):
            continue
        broken = json.loads(json.dumps(DEFAULTS))
        place = broken
        for name in path:
            place = place[name]
        place["surprise"] = 1
        assert not VALIDATOR.is_valid(broken), ".".join(path)


def objects_within(values: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    for name, value in values.items():
        if isinstance(value, dict):
            yield from objects_within(value, (*path, name))


def test_values_and_profiles_are_what_the_schema_says() -> None:
    VALIDATOR.check_schema(SCHEMA)
    VALIDATOR.validate(DEFAULTS)
    for file in [*(CHART / f"values-{name}.yaml" for name in PROFILES), *ci_value_sets()]:
        for section in yaml.safe_load(file.read_text()):
            assert section in DEFAULTS, f"{file.name}: {section}"


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_only_what_differs(name: str) -> None:
    profile = dict(leaves(yaml.safe_load((CHART / f"values-{name}.yaml").read_text())))
    defaults = dict(leaves(DEFAULTS))
    assert not {path for path, value in profile.items() if path in defaults and defaults[path] == value}


# -- settings ---------------------------------------------------------------------------------------


def part_of_tree(section: str) -> type[BaseModel]:
    model = Settings.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model


FIELDS = [
    (section, name)
    for section in Settings.model_fields
    for name in part_of_tree(section).model_fields
    if (section, name) != ("http", "host") and section != "replicas"  # the chart decides them
]
# No whole floats: 3.0 is an integer in JSON Schema and none to a strict pydantic.
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
NUMBERS = st.integers(-2, 600) | st.integers(0, 2**40) | FLOATS
WORDS = st.sampled_from(["auto", "cpu", "cuda", "none", "nf4", "int8", "float16", "INFO", "ERROR"]) | st.text(
    max_size=9
)
VALUES = NUMBERS | WORDS | st.booleans() | st.lists(st.integers(), max_size=2) | st.lists(WORDS, max_size=2)


@lru_cache(maxsize=1)
def settings_validator() -> jsonschema.Draft7Validator:
    part = {**SCHEMA["properties"]["settings"], "definitions": SCHEMA["definitions"]}
    return jsonschema.Draft7Validator(part)


@settings(max_examples=1500, deadline=None)
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_the_chart_takes_a_setting_exactly_when_the_package_does(field: tuple[str, str], value: Any) -> None:
    section, name = field
    given = tuple(value) if isinstance(value, list) else value  # strict pydantic takes no list for a tuple
    try:
        part_of_tree(section).model_validate({name: given}, strict=True)
        taken = True
    except ValidationError as error:
        taken = concerns_several_fields(error, depth=0)
    assert settings_validator().is_valid({section: {name: value}}) == taken


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(said=st.dictionaries(st.sampled_from(FIELDS), VALUES | st.integers(0, 600).map(float), min_size=1, max_size=4))
def test_what_the_chart_takes_the_builder_takes(said: dict[tuple[str, str], Any]) -> None:
    tree: dict[str, dict[str, Any]] = {}
    for (section, name), value in said.items():
        tree.setdefault(section, {})[name] = value
    assume(settings_validator().is_valid(tree))
    assert builder_takes(tree)


def builder_takes(tree: dict[str, Any]) -> bool:
    try:
        Settings.model_validate(tree)
    except ValidationError as error:
        return concerns_several_fields(error, depth=1)
    return True


def concerns_several_fields(error: ValidationError, depth: int) -> bool:
    """Whether each refusal is a rule of a section as a whole (a bot without its secrets), which no JSON Schema has."""
    return all(each["type"] == "value_error" and len(each["loc"]) == depth for each in error.errors())


def test_every_setting_but_the_address_can_be_set() -> None:
    for section, name in FIELDS:
        reference = SCHEMA["properties"]["settings"]["properties"][section]["$ref"].rpartition("/")[2]
        assert name in SCHEMA["definitions"][reference]["properties"]
    assert "host" not in SCHEMA["definitions"]["HttpSettings"]["properties"]
