"""What values add to the chart's objects as they are: containers, volumes, labels, placement, services, overrides."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart import core
from tests.chart.render import CHART, HELMS, Object, binary, of_kind, rayservice, render
from tests.chart.test_platform_values import environment, templates

pytestmark = pytest.mark.chart
REDIS = {"faultTolerance.enabled": True}
PLACES = {"head": {}, "workers.cpu": {}, "workers.gpu": {}, "redis": REDIS, "test": {}}
PLACEMENT: dict[str, Any] = {
    "nodeSelector": {"pool": "1"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "priorityClassName": "1000",
    "runtimeClassName": "true",
    "schedulerName": "volcano",
    "hostAliases": [{"ip": "10.0.0.7", "hostnames": ["hub"]}],
    "dnsPolicy": "None",
    "dnsConfig": {"nameservers": ["10.0.0.10"]},
    "hostNetwork": True,
}


def pod_of(objects: list[Object], place: str) -> Any:
    """The pod template of a section of the values."""
    if place == "redis":
        (redis,) = of_kind(objects, "StatefulSet")
        return redis["spec"]["template"]
    if place == "test":
        (test,) = of_kind(objects, "Pod")
        return test
    return templates(objects)[place.removeprefix("workers.")]


@pytest.mark.parametrize("place", PLACES)
def test_every_pod_takes_every_field_of_placement(place: str) -> None:
    values = {f"{place}.{name}": value for name, value in PLACEMENT.items()}
    spec = pod_of(render(set=PLACES[place] | values), place)["spec"]
    assert {name: spec[name] for name in PLACEMENT} == PLACEMENT


@pytest.mark.parametrize("place", PLACES)
def test_every_pod_takes_labels_and_annotations_beside_the_chart_s(place: str) -> None:
    values = {f"{place}.podLabels": {"team": "7"}, f"{place}.podAnnotations": {"note": "on"}}
    metadata = pod_of(render(set=PLACES[place] | values), place)["metadata"]
    assert metadata["labels"].items() >= {"team": "7", "app.kubernetes.io/instance": "glm"}.items()
    assert metadata["annotations"]["note"] == "on"


def test_common_labels_and_annotations_are_on_every_object_and_pod() -> None:
    values = REDIS | {
        "commonLabels": {"cost-centre": "4711"},
        "commonAnnotations": {"owner": "vision"},
        "modelStorage.create": True,
        "monitoring.podMonitor.enabled": True,
        "monitoring.dashboards.enabled": True,
        "ingress.enabled": True,
    }
    objects = render(set=values)
    parts = [each["metadata"] for each in objects]
    parts += [template["metadata"] for each in objects for _, template in core.pod_templates(each)]
    for metadata in parts:
        assert metadata["labels"]["cost-centre"] == "4711"
        assert metadata["annotations"]["owner"] == "vision"


ADDITIONS: dict[str, Any] = {
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"secretRef": {"name": "site"}}],
    "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    "extraInitContainers": [{"name": "first", "image": "busybox"}],
    "extraContainers": [{"name": "beside", "image": "busybox"}],
}


@pytest.mark.parametrize(
    ("place", "where"), [("", {"head", "cpu", "gpu"}), ("head.", {"head"}), ("workers.gpu.", {"gpu"})]
)
def test_additions_are_in_all_ray_pods_or_in_those_of_their_section(place: str, where: set[str]) -> None:
    for name, template in templates(render(set={f"{place}{key}": value for key, value in ADDITIONS.items()})).items():
        spec = template["spec"]
        ray = spec["containers"][0]
        found = [
            ADDITIONS["extraEnv"][0] in ray["env"],
            ADDITIONS["extraEnvFrom"] == ray.get("envFrom"),
            ADDITIONS["extraVolumes"][0]["name"] in {each["name"] for each in spec["volumes"]},
            ADDITIONS["extraVolumeMounts"][0] in ray["volumeMounts"],
            "first" in {each["name"] for each in spec.get("initContainers", [])},
            "beside" in {each["name"] for each in spec["containers"][1:]},
        ]
        assert found == [name in where] * len(found), name


def test_the_variable_of_a_group_counts_before_the_one_for_all() -> None:
    values = {"extraEnv": [{"name": "A", "value": "all"}], "workers.gpu.extraEnv": [{"name": "A", "value": "gpu"}]}
    found = {
        name: environment(each["spec"]["containers"][0])["A"] for name, each in templates(render(set=values)).items()
    }
    assert found == {"head": "all", "cpu": "all", "gpu": "gpu"}


def test_a_lifecycle_keeps_the_drain() -> None:
    start = {"exec": {"command": ["true"]}}
    spec = templates(render(set={"workers.gpu.lifecycle": {"postStart": start}}))["gpu"]["spec"]
    assert spec["containers"][0]["lifecycle"]["postStart"] == start
    assert spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][:2] == ["glm-serve", "drain"]


def test_overrides_merge_as_kubernetes_own_strategic_merge_does() -> None:
    """The cases of kubectl's documentation: by name, by mount path, by $patch; sources as a whole."""
    worker = {
        "name": "ray-worker",
        "imagePullPolicy": "Always",
        "env": [
            {"name": "HF_HOME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "B", "value": "c"},
        ],
        "volumeMounts": [{"mountPath": "/models", "name": "models", "readOnly": True}],
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
    }
    volumes = [{"name": "models", "nfs": {"server": "nas", "path": "/m"}}, {"name": "tmp", "$patch": "delete"}]
    patch = {"metadata": {"annotations": {"a": "b"}}, "spec": {"containers": [worker], "volumes": volumes}}
    values = {"overrides.all": {"spec": {"enableServiceLinks": False}}, "overrides.workers": {"gpu": patch}}
    before, after = templates(render()), templates(render(set=values))
    for name, each in after.items():
        assert each["spec"].pop("enableServiceLinks") is False
        if name != "gpu":
            assert each == before[name]
    ray, old = after["gpu"]["spec"]["containers"][0], before["gpu"]["spec"]["containers"][0]
    assert after["gpu"]["metadata"]["annotations"] == {"a": "b"}
    assert after["gpu"]["metadata"]["labels"] == before["gpu"]["metadata"]["labels"]
    assert worker["env"][0] in ray["env"]
    assert len(ray["env"]) == len(old["env"]) + 1
    assert ray["imagePullPolicy"] == "Always"
    assert ray["image"] == old["image"]
    assert ray["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "1"]
    assert [each["mountPath"] for each in ray["volumeMounts"]] == [each["mountPath"] for each in old["volumeMounts"]]
    assert worker["volumeMounts"][0] in ray["volumeMounts"]
    assert {"name": "models", "nfs": {"server": "nas", "path": "/m"}} in after["gpu"]["spec"]["volumes"]
    assert "tmp" not in {each["name"] for each in after["gpu"]["spec"]["volumes"]}


def test_extra_objects_are_objects_or_text_with_templates() -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: { name: '{{ .Release.Name }}-b' }"
    first = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}}
    objects = render(set={"extraObjects": [first, text]})
    assert {"glm-a", "glm-b"} <= {each["metadata"]["name"] for each in objects}


@pytest.mark.parametrize(
    ("given", "rendered"),
    [(None, None), ("", ""), ("-", ""), ("fast", "fast"), ("2024", "2024")],
)
def test_a_storage_class_is_the_default_none_or_a_name(given: str | None, rendered: str | None) -> None:
    values = REDIS | {"modelStorage.create": True, "modelStorage.storageClassName": given}
    objects = render(set=values | {"redis.persistence.storageClassName": given})
    (claim,) = of_kind(objects, "PersistentVolumeClaim")
    (redis,) = of_kind(objects, "StatefulSet")
    for spec in (claim["spec"], redis["spec"]["volumeClaimTemplates"][0]["spec"]):
        assert spec.get("storageClassName") == rendered
        assert ("storageClassName" in spec) == (rendered is not None)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ({"nfs": {"server": "nas", "path": "/models"}}, ""),
        ({"csi": {"driver": "gcsfuse.csi.storage.gke.io"}}, "releases/1"),
        ({"image": {"reference": "registry.example.com/weights:1"}}, ""),
        ({"hostPath": {"path": "/var/models", "type": "Directory"}}, "glm"),
    ],
)
def test_weights_lie_on_any_kind_of_volume(source: Object, path: str) -> None:
    spec = templates(render(set={"modelStorage.volume": source, "modelStorage.subPath": path}))["gpu"]["spec"]
    assert {"name": "models", **source} in spec["volumes"]
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "models"]
    assert mount == {"name": "models", "mountPath": "/models"} | ({"subPath": path} if path else {})


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("glm-vision-serve", "mirror.corp/glm-vision-serve"),
        ("registry.example.com:5000/team/glm", "mirror.corp/team/glm"),
        ("localhost/glm", "mirror.corp/glm"),
        ("team/glm", "mirror.corp/team/glm"),
    ],
)
def test_the_registry_of_all_charts_replaces_the_image_s_own(name: str, moved: str) -> None:
    values = REDIS | {
        "image.repository": name,
        "global.imageRegistry": "mirror.corp/",
        "redis.image": "docker.io/redis:7",
    }
    objects = render(set=values | {"modelStorage.fetch": {"enabled": True, "image": "rclone/rclone:1"}})
    images = {container["image"].rpartition(":")[0] for each in objects for container in _containers(each)}
    assert images == {moved, "mirror.corp/redis", "mirror.corp/rclone/rclone"}


def _containers(resource: Object) -> Iterator[Any]:
    for _, template in core.pod_templates(resource):
        yield from core.containers(template)


def test_pull_secrets_of_the_image_and_of_all_charts_are_in_every_pod() -> None:
    values = REDIS | {"image.pullSecrets": ["a", {"name": "b"}], "global.imagePullSecrets": ["b", {"name": "c"}]}
    for each in render(set=values):
        for _, template in core.pod_templates(each):
            assert template["spec"]["imagePullSecrets"] == [{"name": name} for name in "abc"]


def test_an_external_redis_has_a_user_and_an_authority_in_the_head() -> None:
    values = REDIS | {
        "faultTolerance.externalAddress": "rediss://[fd00::1]:6380",
        "faultTolerance.username": "1e3",
        "faultTolerance.caSecret.name": "company",
    }
    objects = render(set=values)
    options = rayservice(objects)["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert options == {"redisAddress": "rediss://[fd00::1]:6380", "redisUsername": {"value": "1e3"}}
    head = templates(objects)["head"]["spec"]
    assert environment(head["containers"][0])["RAY_REDIS_CA_CERT"] == "/etc/glm-serve/redis-ca/ca.crt"
    assert {"name": "redis-ca", "secret": {"secretName": "company"}} in head["volumes"]


def test_the_service_of_kuberay_takes_a_type_labels_and_annotations() -> None:
    assert "serveService" not in rayservice(render())["spec"]
    values = {"serveService.type": "LoadBalancer", "serveService.annotations": {"a": "b"}}
    values |= {"serveService.spec": {"loadBalancerClass": "nlb"}}
    assert rayservice(render(set=values))["spec"]["serveService"] == {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "nlb"},
    }


def test_an_ingress_has_several_hosts_and_secrets() -> None:
    values: dict[str, Any] = {"ingress.enabled": True, "ingress.host": "a.example", "ingress.tlsSecret": "a"}
    values |= {"ingress.extraHosts": ["b.example"], "ingress.extraTls": [{"secretName": "c", "hosts": ["c.example"]}]}
    (ingress,) = of_kind(render(set=values), "Ingress")
    first, second = ingress["spec"]["rules"]
    assert (first["host"], second["host"]) == ("a.example", "b.example")
    assert first["http"] == second["http"]
    assert ingress["spec"]["tls"] == [
        {"secretName": "a", "hosts": ["a.example", "b.example"]},
        {"secretName": "c", "hosts": ["c.example"]},
    ]


def test_a_group_has_its_own_image_priority_and_devices() -> None:
    values = {
        "workers.gpu.image": {"repository": "glm-arm64"},
        "workers.gpu.priority": 3,
        "workers.gpu.gpuResource": "",
        "workers.gpu.resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
        "workers.gpu.resources.claims": [{"name": "gpu"}],
    }
    objects = render(set=values)
    group = rayservice(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]
    (ray,) = group["template"]["spec"]["containers"]
    assert ray["image"] == "glm-arm64:0.1.0-gpu"
    assert templates(objects)["cpu"]["spec"]["containers"][0]["image"] == "glm-vision-serve:0.1.0-cpu"
    assert group["priority"] == 3
    assert group["resources"]["GPU"] == "1"
    assert group["template"]["spec"]["resourceClaims"] == values["workers.gpu.resourceClaims"]
    assert ray["resources"]["claims"] == [{"name": "gpu"}]
    assert not any("nvidia" in name for name in ray["resources"]["limits"])


def test_a_suspended_service_a_token_of_one_s_own_and_scrape_annotations() -> None:
    values = {
        "suspend": True,
        "rayTokenSecret": "42",
        "monitoring.scrapeAnnotations": True,
        "settings.metrics.port": 9080,
    }
    objects = render(set=values)
    spec = rayservice(objects)["spec"]
    assert spec["suspend"] is True
    assert spec["rayClusterConfig"]["authOptions"] == {"mode": "token", "secretName": "42"}
    for template in templates(objects).values():
        assert template["metadata"]["annotations"]["prometheus.io/port"] == "9080"


@pytest.mark.parametrize("helm", HELMS)
def test_fractions_may_be_given_by_helm_s_set(helm: str) -> None:
    sets = "stages.engine.gpus=0.5,stages.ingress.cpus=0.25,monitoring.prometheusRule.errorFraction=0.01"
    command = [binary(helm), "template", "glm", CHART, "--set", sets, "--set", "monitoring.prometheusRule.enabled=true"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    objects = [each for each in yaml.load_all(run.stdout, Loader=yaml.CSafeLoader) if each]
    deployments = yaml.safe_load(rayservice(objects)["spec"]["serveConfigV2"])["applications"][0]["deployments"]
    options = {each["name"]: each["ray_actor_options"] for each in deployments}
    assert (options["engine"]["num_gpus"], options["ingress"]["num_cpus"]) == (0.5, 0.25)
    assert "> 0.01" in json.dumps(of_kind(objects, "PrometheusRule"))


# Names that YAML reads as something else than text.
ODD = ("2024", "1e3", "true", "null", "0x1f")
NAMES = (
    "image.pullSecrets.0",
    "auth.keysSecret.name",
    "auth.jwtSecret.name",
    "auth.limitsRedisSecret.name",
    "auth.testKeySecret.name",
    "cache.secret.name",
    "audit.existingClaim",
    "head.priorityClassName",
    "workers.gpu.runtimeClassName",
    "workers.gpu.schedulerName",
    "modelStorage.existingClaim",
    "modelStorage.hubTokenSecret.name",
    "modelStorage.fetch.envFromSecret",
    "faultTolerance.passwordSecret.name",
    "faultTolerance.passwordSecret.key",
    "ingress.className",
    "ingress.tlsSecret",
    "ingress.host",
    "serviceAccount.name",
    "networkPolicy.operatorNamespace",
    "rayTokenSecret",
)


@pytest.mark.parametrize("odd", ODD)
def test_every_name_stays_a_string_whatever_yaml_would_make_of_it(odd: str) -> None:
    values: dict[str, Any] = {name: odd for name in NAMES if not name.endswith(".0")}
    values |= REDIS | {
        "image.pullSecrets": [odd],
        "modelStorage.fetch.enabled": True,
        "modelStorage.fetch.image": "rclone",
        "ingress.enabled": True,
    }
    objects = render(set=values)
    for each in objects:
        if each["kind"] != "RayService":
            assert core.schema_problems(each, "1.34") == []
        for name, template in core.pod_templates(each):
            assert core.schema_problems(core.as_pod(name, template), "1.34") == []
    written = yaml.safe_dump(objects)
    assert written.count(odd) >= len(NAMES)


@pytest.mark.parametrize("name", ["on", "true", "null", "e3"])
def test_releases_and_groups_may_have_names_that_yaml_reads_as_something_else(name: str) -> None:
    group = {
        "stages": ["preprocess"],
        "replicas": {"min": 2, "max": 2},
        "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
    }
    objects = render("values-cluster.yaml", set={f"workers.{name}": group, "fullnameOverride": name}, release=name)
    assert name in templates(objects)
    for each in objects:
        assert isinstance(each["metadata"]["name"], str)
        assert core.unsaid_problems(each) == []


@pytest.mark.parametrize("file", ["values-cluster.yaml", "ci/pass-through-values.yaml"])
def test_rendering_twice_gives_the_same_but_for_a_random_password(file: str) -> None:
    """Argo CD renders at each sync."""
    command = [
        binary("helm4"),
        "template",
        "glm",
        CHART,
        "--values",
        CHART / file,
        "--set",
        "faultTolerance.passwordSecret.name=p",
    ]
    first, second = (subprocess.run(command, capture_output=True, check=True, timeout=60).stdout for _ in range(2))
    assert first == second
