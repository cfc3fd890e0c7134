"""Values that can't work are refused before anything is installed, in one sentence that names them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.chart.render import CHART, HELMS, refusal, render
from tests.chart.test_uninstall import installed, ray_service
from tests.chart.test_upgrade_in_place import upgraded
from tests.chart.test_volumes_in_place import changed

pytestmark = pytest.mark.chart
GROUP = {
    "stages": ["engine"],
    "replicas": {"min": 1, "max": 1},
    "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
}
INCREMENTAL = {
    "upgrade.strategy": "NewClusterWithIncrementalUpgrade",
    "upgrade.incremental.gatewayClassName": "istio",
}

COMBINATIONS = [
    ({"fullnameOverride": "n" * 48}, "KubeRay accepts at most 47"),
    ({"fullnameOverride": "0day"}, "beginning with a letter"),
    ({"settings.http.port": 8080}, "settings.http.port and settings.metrics.port are both 8080"),
    ({"settings.http.port": 8265}, "settings.http.port is 8265, which is the port of Ray's dashboard"),
    ({"settings.metrics.port": 9101}, "settings.metrics.port is 9101, which is the port of HAProxy's metrics"),
    ({"stages.ingress.replicas": {"min": 3, "max": 2}}, "stages.ingress.replicas.max is 2, which is less than min (3)"),
    ({"workers.cpu.replicas": {"min": 6, "max": 5}}, "workers.cpu.replicas.max is 5, which is less than min (6)"),
    ({"stages.engine.gpus": 1.5}, "stages.engine.gpus is 1.5, but a replica uses one GPU"),
    ({"stages.engine.gpus": 2, "workers.gpu.gpus": 2}, "stages.engine.gpus is 2, but a replica uses one GPU"),
    ({"stages.engine.gpus": 0}, "workers.gpu.gpus is 1, but nothing in its pods uses a GPU: stages.engine.gpus is 0"),
    ({"workers.cpu.gpus": 1}, "workers.cpu.gpus is 1, but nothing in its pods uses a GPU: the group does not run the"),
    ({"workers.gpu.gpuResource": ""}, "workers.gpu.gpuResource is empty, so its pods would get no GPU"),
    (
        {"workers.gpu.resources.requests": {"cpu": "4", "nvidia.com/gpu": 2}},
        "workers.gpu.resources.requests has 2 of nvidia.com/gpu, and limits has none",
    ),
    (
        {"workers.gpu.resources.limits": {"memory": "24Gi", "nvidia.com/gpu": 2}},
        "workers.gpu.resources.limits has 2 of nvidia.com/gpu, but workers.gpu.gpus, which is what Ray counts, is 1",
    ),
    (
        {"workers.cpu.resources.limits": {"memory": "8Gi", "nvidia.com/mig-1g.10gb": 1}},
        "workers.cpu.resources.limits has 1 of nvidia.com/mig-1g.10gb, but workers.cpu.gpus, which is what Ray counts,",
    ),
    (
        {"workers.gpu.resources.limits": {"memory": "24Gi", "nvidia.com/gpu": 0.5}},
        "workers.gpu.resources.limits.nvidia.com/gpu is 0.5, and Kubernetes gives whole devices only",
    ),
    (
        {"workers.gpu.gpuResource": "gpu"},
        'workers.gpu.gpuResource is "gpu". Kubernetes\' names of devices begin with a',
    ),
    (
        {"workers.gpu.gpuResource": "", "workers.gpu.resourceClaims": [{"name": "card"}]},
        "workers.gpu.resourceClaims has devices for the pod, but none for its container. Name them in workers.gpu.res",
    ),
    (
        {"workers.gpu.resourceClaims": [{"name": "card"}], "workers.gpu.resources.claims": [{"name": "gpu"}]},
        'workers.gpu.resources.claims names "gpu", which is not in workers.gpu.resourceClaims. There are: card',
    ),
    (
        {"workers.gpu.resources.requests.memory": "32Gi"},
        "workers.gpu.resources.requests.memory is 32Gi, which is more than limits.memory (24Gi)",
    ),
    (
        {"upgrade.check.resources.limits.memory": "512Mi"},
        "upgrade.check.resources.requests.memory is 1Gi, which is more than limits.memory (512Mi)",
    ),
    (
        {"extraContainers": [{"name": "log", "image": "x", "resources": {"limits": {"cpu": "1 core"}}}]},
        'head: resources of the container "log".limits.cpu is "1 core", which is not an amount of a resource. Write',
    ),
    (
        {"workers.gpu.resources.limits.memory": "24GiB"},
        'workers.gpu.resources.limits.memory is "24GiB", which is not an',
    ),
    (
        {"modelStorage.size": "60GB"},
        'modelStorage.size is "60GB", which is not an amount of a resource. Write a number',
    ),
    ({"workers.gpu.resources.requests": {"cpu": 0}}, "workers.gpu.resources has no cpu in requests or limits, so Ray"),
    ({"head.resources.limits.memory": 4}, "head.resources.limits.memory is 4, which is less than one mebibyte"),
    ({"redis.resources.limits.memory": "512m"}, "redis.resources.limits.memory is 512m, which is less than one mebi"),
    (
        {"upgrade.initializingTimeout": "soon"},
        'upgrade.initializingTimeout is "soon". Write hours, minutes and seconds',
    ),
    ({"upgrade.initializingTimeout": "0s"}, 'upgrade.initializingTimeout is "0s". Write hours, minutes and seconds'),
    (
        {"commonAnnotations": {"ray.io/ft-enabled": "true"}, "faultTolerance.enabled": True},
        "commonAnnotations sets ray.io/ft-enabled, and faultTolerance.enabled is set too. Remove one of them.",
    ),
    (
        {"annotations": {"ray.io/initializing-timeout": "1h"}, "upgrade.initializingTimeout": "1h"},
        "annotations sets ray.io/initializing-timeout, and upgrade.initializingTimeout is set too. Remove one of them.",
    ),
    (
        {"annotations": {"ray.io/initializing-timeout": "soon"}},
        'annotations[ray.io/initializing-timeout] is "soon". Write hours, minutes and seconds',
    ),
    ({"workers.cpu.suspend": True}, "workers.cpu.suspend is true, which KubeRay refuses with the autoscaler"),
    (
        {"extraEnv": [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}]},
        "extraEnv or head.extraEnv sets RAY_REDIS_ADDRESS, with which KubeRay refuses the RayService",
    ),
    (
        {"head.extraEnv": [{"name": "REDIS_USERNAME", "value": "ray"}]},
        "extraEnv or head.extraEnv sets REDIS_USERNAME, with which KubeRay refuses the RayService",
    ),
    (
        {"extraEnv": [{"name": "REDIS_PASSWORD", "value": "x"}], "faultTolerance.enabled": True},
        "extraEnv or head.extraEnv sets REDIS_PASSWORD, and faultTolerance is enabled: KubeRay then sets it in",
    ),
    (
        {"extraEnv": [{"name": "RAY_USAGE_STATS_EXTRA_TAGS", "value": "a=b"}]},
        "extraEnv or head.extraEnv sets RAY_USAGE_STATS_EXTRA_TAGS, which KubeRay sets in the head. Remove it.",
    ),
    (
        {"workers.cpu.extraEnv": [{"name": "RAY_CLUSTER_NAME", "value": "glm"}]},
        "extraEnv or workers.cpu.extraEnv sets RAY_CLUSTER_NAME, which KubeRay sets in every Ray container",
    ),
    (
        {"image.repository": "registry:5000/glm:1.2"},
        'image.repository is "registry:5000/glm:1.2", which is not the name',
    ),
    ({"image.repository": "https://registry/glm"}, 'image.repository is "https://registry/glm", which is not the name'),
    (
        {"global.imageRegistry": "https://harbor"},
        'global.imageRegistry is "https://harbor". Write the registry\'s name',
    ),
    ({"ingress.host": "https://glm.example.com"}, 'ingress.host has "https://glm.example.com", which is not the name'),
    ({"gateway.hostnames": ["glm.example.com:443"]}, 'gateway.hostnames has "glm.example.com:443", which is not the'),
    ({"commonLabels": {"Cost Centre": "a"}}, 'commonLabels sets the label "Cost Centre", which is not a name of Kube'),
    (
        {"extraVolumes": [{"name": "Company_CA", "emptyDir": {}}]},
        'head: a volume is named "Company_CA". Kubernetes takes',
    ),
    (
        {"head.extraContainers": [{"name": "autoscaler", "image": "x"}]},
        'head: a container is named "autoscaler", as one that KubeRay adds to the pods',
    ),
    ({"modelStorage.mountPath": "/mo:dels"}, "is mounted at /mo:dels in the container"),
    (
        {"extraEnv": [{"name": "A", "value": "b", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]},
        "extraEnv or head.extraEnv gives A a value and a valueFrom. Remove one.",
    ),
    (
        {"redis.image": "https://registry/redis:7"},
        'redis.image is "https://registry/redis:7", which is not an image. Write',
    ),
    (
        {"modelStorage.existingClaim": "My_Claim"},
        'modelStorage.existingClaim is "My_Claim", which is not a name of Kuber',
    ),
    ({"head.priorityClassName": "High"}, 'head.priorityClassName is "High", which is not a name of Kubernetes. Write'),
    (
        {"workers.gpu.topologySpreadConstraints": [{"labelSelector": {"matchLabels": {"tier": 1}}}]},
        "workers.gpu.topologySpreadConstraints has 1 without quotes in matchLabels. Values of labels are text: write",
    ),
    (
        {"head.affinity": {"nodeAffinity": {"matchExpressions": [{"key": "a", "operator": "In", "values": "b"}]}}},
        "head.affinity has b in values. Write a list, for example [a, b].",
    ),
    (
        {"redis.topologySpreadConstraints": [{"labelSelector": {"matchLabels": "x"}}]},
        "redis.topologySpreadConstraints has x in matchLabels. Write labels and their values, for example { app: glm }",
    ),
    ({"redis.resources": {"requests": "x"}}, "redis.resources.requests is x. Write amounts by the names of resources"),
    ({"test.resources": {"limits": ["a"]}}, "test.resources.limits is [a]. Write amounts by the names of resources"),
    (
        {"extraContainers": [{"name": "log", "image": "x", "resources": "1Gi"}]},
        'head: resources of the container "log" is 1Gi. Write an object with requests and limits, for example { limits',
    ),
    ({"networkPolicy.enabled": None}, "networkPolicy.enabled is null. Write true or false."),
    (
        {"faultTolerance.externalAddress": "redis://secret@redis:6379"},
        'faultTolerance.externalAddress is "redis://secret@redis:6379". Write host:port',
    ),
    ({"faultTolerance.externalAddress": "redis:66379"}, '"redis:66379", and ports end at 65535. Set another port.'),
    (
        {"faultTolerance.enabled": True, "faultTolerance.username": "ray"},
        'faultTolerance.username is "ray", which is for an external Redis: the bundled one has neither',
    ),
    (
        {"modelStorage.volume": {"nfs": {"server": "nas", "path": "/"}, "emptyDir": {}}},
        "modelStorage.volume has 2 sources (emptyDir, nfs), and a volume has one. Remove the others.",
    ),
    ({"modelStorage.subPath": "/models"}, 'modelStorage.subPath is "/models". Write a path in the volume without /'),
    (
        {
            "modelStorage.volume": {"image": {"reference": "registry.example.com/weights:1"}},
            "settings.model.path": "zai-org/GLM-4.6V-Flash",
        },
        "modelStorage.volume can't be written, so zai-org/GLM-4.6V-Flash can't be downloaded into the volume",
    ),
    ({"workers.big": GROUP}, "stages.engine.gpus is 1, but a pod of workers.big has 0"),
    ({"workers.gpu.enabled": False}, 'No enabled group of `workers` lists "engine" in its stages'),
    ({"workers.cpu.stages": ["ingress"]}, 'No enabled group of `workers` lists "preprocess" in its stages'),
    ({"workers.cpu": None}, 'No enabled group of `workers` lists "ingress" in its stages'),
    ({"stages.engine.replicas.max": 2}, "stages.engine: 2 replicas (max) don't fit: the pods of its groups hold 1"),
    ({"stages.preprocess.replicas.max": 16}, "17 replicas (max, and one more in a rolling update) don't fit"),
    ({"stages.preprocess.cpus": 5}, "the pods of its groups hold 0"),
    ({"stages.ingress.replicas.max": 14}, "workers.cpu: its stages need at most 16.5 CPUs"),
    ({"autoscaler.enabled": False}, "the autoscaler is disabled, so there are never more than min pods"),
    ({"workers.cpu.sharedMemory": "8Gi"}, "workers.cpu.sharedMemory is 8Gi. It counts as the pod's memory"),
    ({"head.sharedMemory": "5Gi"}, "head.sharedMemory is 5Gi"),
    ({"settings.model.device": "cpu"}, "settings.model.device is cpu, but stages.engine.gpus is 1"),
    (
        {"settings.model.device": "cuda", "stages.engine.gpus": 0, "workers.gpu.gpus": 0},
        "is cuda, but stages.engine.gpus is 0",
    ),
    ({"upgrade.strategy": "NewClusterWithIncrementalUpgrade"}, "needs upgrade.incremental.gatewayClassName"),
    (
        INCREMENTAL | {"upgrade.incremental.maxSurgePercent": 10},
        "stepSizePercent is 20, which is more than maxSurgePercent (10)",
    ),
    (INCREMENTAL | {"ingress.enabled": True}, "ingress.enabled can't be used with"),
    (INCREMENTAL | {"gateway.enabled": True}, "gateway.enabled can't be used with"),
    ({"gateway.enabled": True}, "gateway.enabled needs gateway.parentRefs"),
    ({"settings.audit.mode": "required"}, "there is no volume for the audit log"),
    ({"auth.anonymous": "refuse"}, "auth.anonymous is refuse, and there is no authentication"),
    ({"modelStorage.fetch.enabled": True}, "needs modelStorage.fetch.image"),
    (
        {"autoscaler.resources": {"limits": {"cpu": "2GB"}}},
        'autoscaler.resources.limits.cpu is "2GB", which is not an am',
    ),
    ({"autoscaler.resources": {"requests": {"cpu": "0.1n"}}}, "0.1n of a resource is finer or larger than Kubernetes'"),
    (
        {"head.temporaryStorage": "1.23456789Ti"},
        "1.23456789Ti of a resource has too many digits. Write it in a smaller",
    ),
    ({"settings.http.port": 8500}, "settings.http.port is 8500, which is the port of Serve's own proxy"),
    ({"settings.metrics.port": 30100}, "settings.metrics.port is 30100. Ray's processes take ports between"),
    ({"workers.cpu.podLabels": {"app.kubernetes.io/component": "x"}}, "workers.cpu.podLabels sets the label app."),
    ({"redis.podLabels": {"app.kubernetes.io/instance": "x"}}, "redis.podLabels sets the label app.kubernetes.io/inst"),
    ({"commonLabels": {"app.kubernetes.io/managed-by": "x"}}, "commonLabels sets the label app.kubernetes.io/managed"),
    ({"commonAnnotations": {"helm.sh/hook": "test"}}, "commonAnnotations sets helm.sh/hook, which would make objects"),
    ({"modelStorage.mountPath": "/tmp"}, 'the volumes "tmp" and "models" are both mounted at /tmp'),
    ({"modelStorage.mountPath": "/dev/shm/"}, "are both mounted at /dev/shm in the container"),
    ({"modelStorage.mountPath": "//"}, 'the volume "models" is mounted at / in the container'),
    (
        {"workers.gpu.extraVolumeMounts": [{"name": "company", "mountPath": "/company"}]},
        'workers.gpu: the container "ray-worker" mounts the volume "company", which does not exist. There are: tmp,',
    ),
    ({"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}, 'head: two volumes are named "tmp"'),
    ({"extraContainers": [{"name": "ray-head", "image": "x"}]}, 'head: two containers are named "ray-head"'),
    (
        {"workers.cpu.extraContainers": [{"name": "log", "image": "x", "ports": [{"containerPort": 8000}]}]},
        'workers.cpu: port 8000 of the container "log" is also a port of another container',
    ),
    ({"workers.gpu.lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}, "workers.gpu.lifecycle.preStop would replace"),
    ({"overrides.workers": {"tpu": {}}}, "overrides.workers.tpu is the name of no enabled group of `workers`. There"),
    (INCREMENTAL | {"serveService.type": "LoadBalancer"}, "serveService can't be used with upgrade.strategy"),
    ({"modelStorage.create": True, "modelStorage.volume": {"emptyDir": {}}}, "modelStorage.volume can't be used with"),
    ({"modelStorage.readOnly": True}, "modelStorage.readOnly is true, and a new volume has no model"),
    (
        {
            "modelStorage.readOnly": True,
            "modelStorage.existingClaim": "weights",
            "modelStorage.fetch": {"enabled": True, "image": "rclone"},
        },
        "modelStorage.readOnly is true, so modelStorage.fetch can't copy",
    ),
    (
        {
            "modelStorage.readOnly": True,
            "modelStorage.existingClaim": "weights",
            "settings.model.path": "zai-org/GLM-4.6V-Flash",
        },
        "modelStorage.readOnly is true, so zai-org/GLM-4.6V-Flash can't be downloaded into the volume",
    ),
    (
        {"modelStorage.create": True, "modelStorage.accessModes": ["ReadWriteOncePod"]},
        "modelStorage.accessModes is ReadWriteOncePod, but up to 5 pods mount the volume",
    ),
    (
        {"modelStorage.create": True, "modelStorage.accessModes": ["ReadOnlyMany"]},
        "modelStorage.accessModes is ReadOnlyMany, so nobody could write a model",
    ),
    ({"faultTolerance.externalAddress": "redis"}, 'faultTolerance.externalAddress is "redis". Write host:port'),
    ({"enabled": False}, "enabled is false, which has a meaning only as the condition of a parent chart"),
    (
        {"monitoring.prometheusRule.enabled": True, "monitoring.prometheusRule.alerts": {"GlmQueu": {}}},
        "monitoring.prometheusRule.alerts.GlmQueu is not an alert of the chart. There are:",
    ),
    (
        {"monitoring.prometheusRule.enabled": True, "monitoring.api": "azmonitoring.coreos.com"},
        "monitoring.prometheusRule can't be used with monitoring.api azmonitoring.coreos.com",
    ),
]

OUT_OF_BOUNDS = [
    ({"workers.cpu.stages": ["decode"]}, "workers/cpu/stages/0"),
    ({"workers.cpu.stages": []}, "workers/cpu/stages"),
    ({"workers.Large": GROUP}, "Large"),
    ({"workers.big": {"stages": ["engine"]}}, "workers/big"),
    ({"workers.cpu.resources.limits": None}, "workers/cpu/resources"),
    ({"stages.decode": {}}, "decode"),
    ({"stages.ingress.replicas.min": 0}, "stages/ingress/replicas/min"),
    ({"settings.http.host": "127.0.0.1"}, "host"),
    ({"settings.replicas.engine": 2}, "replicas"),
    ({"settings.engine.max_slots": 0}, "settings/engine/max_slots"),
    ({"settings.engine.slots": 4}, "slots"),
    ({"settings.model.quantization": "int2"}, "settings/model/quantization"),
    ({"rayAuth": "kerberos"}, "rayAuth"),
    ({"auth.anonymous": "sometimes"}, "auth/anonymous"),
    ({"upgrade.strategy": "Recreate"}, "upgrade/strategy"),
    ({"upgrade.initializingTimeout": 1.5}, "upgrade/initializingTimeout"),
    ({"upgrade.incremental.stepSizePercent": 0}, "upgrade/incremental/stepSizePercent"),
    ({"audit.mountPath": "audit"}, "audit/mountPath"),
    ({"gateway.parentRefs": [{"namespace": "gateways"}]}, "gateway/parentRefs/0"),
    ({"podSecurityContext": {"runAsUser": "10001"}}, "podSecurityContext/runAsUser"),
    ({"workers.gpu.tolerations": [{"key": "gpu", "operator": "Equal", "value": True}]}, "tolerations/0/value"),
    ({"redis.tolerations": [{"key": "gpu", "operator": "exists"}]}, "redis/tolerations/0/operator"),
    ({"networkPolicy.clients": [{"podSelector": {"matchLabels": {"tier": 1}}}]}, "clients/0/podSelector/matchLabels"),
    ({"networkPolicy.clients": [{"podSelectors": {}}]}, "podSelectors"),
    ({"networkPolicy.extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.7"}}]}]}, "extraEgress/0/to/0/ipBlock/cidr"),
    ({"monitoring.podMonitor.labels": {"team": "a b"}}, "monitoring/podMonitor/labels/team"),
    ({"head.nodeSelector": {"pool": "a b"}}, "head/nodeSelector/pool"),
    ({"image.digest": "abc"}, "image/digest"),
    ({"modelStorage.accessModes": ["RWX"]}, "modelStorage/accessModes/0"),
    ({"labels": {"team": "a b"}}, "labels/team"),
    ({"extraEnv": [{"value": "b"}]}, "extraEnv/0"),
    ({"stages.engine.gpus": "half"}, "stages/engine/gpus"),
    ({"monitoring.prometheusRule.errorFraction": "1.5"}, "errorFraction"),
    ({"image.pullSecrets": [{"secret": "x"}]}, "image/pullSecrets/0"),
    ({"typo": 1}, "typo"),
]


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("values", "sentence"), COMBINATIONS)
def test_a_combination_that_can_t_work_is_refused_in_one_sentence(
    values: dict[str, Any], sentence: str, helm: str
) -> None:
    assert sentence in refusal(helm=helm, set=values)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("values", "place"), OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_refused_with_its_place(values: dict[str, Any], place: str, helm: str) -> None:
    said = refusal(helm=helm, set=values)
    assert "don't meet the specifications" in said
    assert place in said.replace(".", "/")  # helm 3 writes workers.cpu, helm 4 /workers/cpu


def test_incremental_upgrades_need_the_autoscaler() -> None:
    values = INCREMENTAL | {"autoscaler.enabled": False}
    assert "needs autoscaler.enabled" in refusal("ci/everything-off-values.yaml", set=values)


@pytest.mark.parametrize("replicas", [3, 4])
def test_the_last_replica_that_fits_is_taken_and_one_more_is_not(replicas: int) -> None:
    """A pod with 4 CPUs and 2 GPUs holds two engines of a GPU each: two pods hold four."""
    values = {"workers.gpu.gpus": 2, "workers.gpu.replicas.max": 2, "stages.engine.replicas.max": replicas}
    assert render(set=values)
    assert "5 replicas (max) don't fit" in refusal(set=values | {"stages.engine.replicas.max": 5})


def test_every_refusal_of_the_chart_is_tested() -> None:
    said = "".join(refusal(set=values) for values, _ in COMBINATIONS)
    said += installed("helm4", ray_service(deletionTimestamp="2026-11-29T20:00:00Z"))[1]
    said += refusal("ci/everything-off-values.yaml", set=INCREMENTAL | {"autoscaler.enabled": False})
    said += upgraded("helm4", "--set", "image.tag=0.2.0", "--set", "settings.engine.max_slots=4").stderr
    said += changed("helm4", {"redis.persistence.size": "2Gi"}) + changed("helm4", {"modelStorage.size": "1Gi"})
    # Those of amounts are in test_canonical_form.
    files = [file for file in (CHART / "templates").glob("*.tpl") if file.name != "_canonical.tpl"]
    templates = "".join(file.read_text() for file in files)
    written = re.findall(r'fail \(?(?:printf )?"((?:[^"\\]|\\.)*)"', templates)
    assert len(written) > 15
    for sentence in written:
        longest = max(re.split(r"%\w", sentence), key=len)
        assert longest in said, sentence
