"""Amounts of resources, durations and names of images are taken as people write them, and mean what they say."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.chart.quantities import quantity
from tests.chart.render import HELMS, Object, of_kind, rayservice, refusal, render

pytestmark = pytest.mark.chart
GIB = 2**30


def group(objects: list[Object], name: str) -> Any:
    groups = rayservice(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (found,) = [each for each in groups if each["groupName"] == name]
    return found


def ray(template: Any) -> Any:
    return template["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    "written", [24 * GIB, str(24 * GIB), "24Gi", "25769803776", "25.769803776G", "2.5769803776e10"]
)
def test_memory_is_taken_in_every_form_of_kubernetes(written: Any, helm: str) -> None:
    values = {"workers.gpu.resources": {"requests": {"cpu": 4, "memory": written}, "limits": {"memory": written}}}
    resources = ray(group(render(helm=helm, set=values), "gpu"))["resources"]
    assert [quantity(resources[kind]["memory"]) for kind in ("requests", "limits")] == [24 * GIB, 24 * GIB]


def test_small_amounts_with_their_unit_are_taken() -> None:
    sidecar = {"name": "log", "image": "x", "resources": {"limits": {"ephemeral-storage": "512Ki", "memory": "640Ki"}}}
    pages = {"memory": "24Gi", "hugepages-64Ki": "640Ki"}
    objects = render(set={"workers.gpu.resources.limits": pages, "extraContainers": [sidecar]})
    assert ray(group(objects, "gpu"))["resources"]["limits"].items() >= pages.items()


@pytest.mark.parametrize("written", [2 * GIB, "2Gi", "2147483648", ".002Ti", "0.000002Pi"])
def test_shared_memory_in_every_form_is_the_size_of_the_object_store(written: Any) -> None:
    cpu = group(render(set={"workers.cpu.sharedMemory": written}), "cpu")
    (volume,) = [each for each in cpu["template"]["spec"]["volumes"] if each["name"] == "shared-memory"]
    size = quantity(volume["emptyDir"]["sizeLimit"])
    assert int(cpu["rayStartParams"]["object-store-memory"]) == math.floor(size) * 9 // 10


@pytest.mark.parametrize("written", ["250m", 0.25, "0.25", ".25"])
def test_the_cpus_of_a_stage_are_taken_as_kubernetes_writes_them(written: Any) -> None:
    objects = render(set={"stages.ingress.cpus": written})
    assert "num_cpus: 0.25\n" in rayservice(objects)["spec"]["serveConfigV2"]


@pytest.mark.parametrize(
    ("written", "rendered"), [(3600, "3600"), ("3600", "3600"), ("1h30m", "1h30m"), ("1.5h", "1.5h")]
)
def test_a_timeout_is_taken_in_seconds_and_as_a_duration(written: Any, rendered: str) -> None:
    annotations = rayservice(render(set={"upgrade.initializingTimeout": written}))["metadata"]["annotations"]
    assert annotations["ray.io/initializing-timeout"] == rendered


def test_a_priority_is_left_out_without_the_autoscaler_with_which_alone_kuberay_takes_it() -> None:
    values = {"workers.cpu.priority": 3, "workers.cpu.replicas.min": 4}
    assert group(render(set=values), "cpu")["priority"] == 3
    assert "priority" not in group(render(set=values | {"autoscaler.enabled": False}), "cpu")


def test_the_tag_of_one_group_counts_before_the_digest_for_all() -> None:
    digest = "sha256:" + "1" * 64
    objects = render(set={"image.digest": digest, "workers.gpu.image.tag": "0.1.0-cuda13"})
    assert ray(group(objects, "gpu"))["image"] == "glm-vision-serve:0.1.0-cuda13"
    assert ray(group(objects, "cpu"))["image"] == f"glm-vision-serve@{digest}"


@pytest.mark.parametrize(
    "name",
    [
        "glm-vision-serve",
        "registry.example.com:5000/team/glm_vision--serve",
        "localhost/glm",
        "10.0.0.7:443/a/b.c",
        "[2001:db8::1]:5000/glm",
        "<path:registry#image>",
    ],
)
def test_names_of_images_with_a_registry_and_its_port_are_taken(name: str) -> None:
    assert ray(group(render(set={"image.repository": name}), "gpu"))["image"] == f"{name}:0.1.0-gpu"


def test_a_repository_with_a_tag_is_taken_where_a_digest_follows_it() -> None:
    digest = "sha256:" + "1" * 64
    own = {"image.repository": "registry:5000/glm:1.2", "image.digest": digest}
    assert ray(group(render(set=own), "gpu"))["image"] == f"registry:5000/glm:1.2@{digest}"
    tagged = {"workers.gpu.image.tag": "0.1.0"}  # has no digest then
    assert 'image.repository is "registry:5000/glm:1.2"' in refusal(set=own | tagged)
    one = {"workers.gpu.image": {"repository": "glm:1.3", "digest": digest}}
    assert ray(group(render(set=one), "gpu"))["image"] == f"glm:1.3@{digest}"


def test_placeholders_and_addresses_of_ipv6_are_taken_as_hosts() -> None:
    registry = {"global.imageRegistry": "[2001:db8::1]:5000"}
    assert ray(group(render(set=registry), "gpu"))["image"] == "[2001:db8::1]:5000/glm-vision-serve:0.1.0-gpu"
    host = "<path:kv/glm#host>"
    values = {
        "ingress.enabled": True,
        "ingress.host": host,
        "redis.image": "<redis>",
        "global.imageRegistry": "<registry>",
    }
    (ingress,) = of_kind(render(set=values), "Ingress")
    assert ingress["spec"]["rules"][0]["host"] == host


READ_ONLY = {
    "modelStorage.volume": {"nfs": {"server": "nas", "path": "/models", "readOnly": True}},
    "settings.model.path": "zai-org/GLM-4.6V-Flash",
}


def hub(objects: list[Object], name: str) -> Any:
    (found,) = [each["value"] for each in ray(group(objects, name))["env"] if each["name"] == "HF_HOME"]
    return found


def test_a_model_of_the_hub_is_taken_on_a_read_only_volume_where_all_groups_have_a_cache() -> None:
    own = {"extraEnv": [{"name": "HF_HOME", "value": "/tmp/hub"}]}
    assert "by workers.cpu" in refusal(set=READ_ONLY | {"workers.gpu": own})
    objects = render(set=READ_ONLY | {"workers.gpu": own, "workers.cpu": own})
    assert hub(objects, "gpu") == hub(objects, "cpu") == "/tmp/hub"


def test_offline_the_hub_s_cache_is_on_the_read_only_volume() -> None:
    offline = {"extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "1"}]}
    for values in (offline, {"workers.gpu": offline, "workers.cpu": offline}):
        objects = render(set=READ_ONLY | values)
        assert hub(objects, "gpu") == hub(objects, "cpu") == "/models/huggingface"
    folder = {"settings.model.path": "/models/GLM-4.6V-Flash"}
    assert hub(render(set=READ_ONLY | folder | offline), "gpu") == "/tmp/huggingface"
    assert "HF_HUB_OFFLINE to 1" in refusal(set=READ_ONLY | {"extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "0"}]})


def test_read_only_as_a_text_of_false_is_not_true() -> None:
    volume = {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": "false"}}
    assert hub(render(set=READ_ONLY | {"modelStorage.volume": volume}), "gpu") == "/models/huggingface"


@pytest.mark.parametrize(
    "volume",
    [
        {"image": {"reference": "registry.example.com/weights:1"}},
        {"nfs": {"server": "nas", "path": "/models", "readOnly": True}},
        {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True}},
    ],
)
def test_caches_are_in_tmp_where_the_volume_of_the_model_can_not_be_written(volume: Object) -> None:
    objects = render(set={"modelStorage.volume": volume, "settings.model.path": "/models/GLM-4.6V-Flash"})
    container = ray(group(objects, "gpu"))
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert (environment["HF_HOME"], environment["TRITON_CACHE_DIR"]) == ("/tmp/huggingface", "/tmp/triton")


def test_every_container_can_have_the_limits_that_a_quota_asks_for() -> None:
    """A quota on limits.cpu refuses a pod without that limit, and the Job of the uninstall with it."""
    limits = {"cpu": "500m", "memory": "1Gi"}
    sections = ("redis", "test", "uninstall")
    values: dict[str, Any] = {f"{each}.resources.limits": limits for each in sections}
    objects = render(set={"faultTolerance.enabled": True} | values)
    pods = [each["spec"]["template"]["spec"] for each in [*of_kind(objects, "StatefulSet"), *of_kind(objects, "Job")]]
    pods += [each["spec"] for each in of_kind(objects, "Pod")]
    assert len(pods) == len(sections)
    for pod in pods:
        assert [each["resources"]["limits"] for each in pod["containers"]] == [limits], json.dumps(pod)[:200]
