"""The worker groups: what Ray's own autoscaler reads out of them, and what their pods can hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.chart.quantities import quantity
from tests.chart.render import Object, every_value_set, of_kind, rayservice, render

pytestmark = pytest.mark.chart
VALUE_SETS = pytest.mark.parametrize("files", every_value_set())


def groups(objects: list[Object]) -> dict[str, Any]:
    spec = rayservice(objects)["spec"]["rayClusterConfig"]
    return {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def pod(group: Any) -> Any:
    return group["template"]["spec"]


def node_types(objects: list[Object]) -> dict[str, Any]:
    """What Ray's autoscaler makes of the RayCluster that the operator makes of our RayService."""
    spec = rayservice(objects)["spec"]["rayClusterConfig"]
    derived = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "glm", "namespace": "glm"}, "spec": spec})
    types: dict[str, Any] = derived["available_node_types"]
    return types


def test_ray_s_autoscaler_sees_what_a_pod_of_each_group_brings() -> None:
    types = node_types(render())
    assert types["headgroup"]["resources"] == {"CPU": 0, "GPU": 0, "memory": 4 * 2**30}
    assert types["cpu"]["resources"] == {"CPU": 4, "memory": 8 * 2**30, "ingress": 1000, "preprocess": 1000}
    assert types["gpu"]["resources"] == {"CPU": 4, "GPU": 1, "memory": 24 * 2**30, "engine": 1000}
    assert (types["cpu"]["min_workers"], types["cpu"]["max_workers"]) == (1, 4)
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (1, 1)
    assert types["gpu"]["idle_timeout_s"] == 300


def test_ray_s_autoscaler_sees_slices_of_a_card_as_gpus() -> None:
    """By the name of the resource alone it would not: nvidia.com/mig-3g.40gb does not end in "gpu"."""
    types = node_types(render("ci/several-gpu-groups-values.yaml"))
    assert types["mig"]["resources"]["GPU"] == 1
    assert types["mig"]["resources"]["CPU"] == 6  # the limit, where there is one
    assert types["l4"]["min_workers"] == 0


@VALUE_SETS
def test_a_new_pod_of_some_group_always_has_room_for_a_replica(files: tuple[Path, ...]) -> None:
    """Otherwise Ray's autoscaler would wait for a kind of node that is not there."""
    import yaml

    objects = render(*files)
    config = yaml.safe_load(rayservice(objects)["spec"]["serveConfigV2"])
    for deployment in config["applications"][0]["deployments"]:
        asked = deployment["ray_actor_options"]
        needs = {"CPU": asked["num_cpus"], "GPU": asked.get("num_gpus", 0), **asked["resources"]}
        offers = [each["resources"] for each in node_types(objects).values() if each["max_workers"]]
        assert any(all(offer.get(name, 0) >= need for name, need in needs.items()) for offer in offers), deployment


@VALUE_SETS
def test_the_object_store_fits_in_shared_memory_and_both_in_the_pod(files: tuple[Path, ...]) -> None:
    spec = rayservice(render(*files))["spec"]["rayClusterConfig"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (shared,) = [each["emptyDir"] for each in pod(group)["volumes"] if each["name"] == "shared-memory"]
        assert shared["medium"] == "Memory"
        store, shared_bytes = int(group["rayStartParams"]["object-store-memory"]), quantity(shared["sizeLimit"])
        limit = quantity(pod(group)["containers"][0]["resources"]["limits"]["memory"])
        assert 0.85 * shared_bytes < store <= shared_bytes < limit


@VALUE_SETS
def test_a_group_with_gpus_asks_kubernetes_for_them_and_no_other_does(files: tuple[Path, ...]) -> None:
    for group in groups(render(*files)).values():
        resources = pod(group)["containers"][0]["resources"]
        asked = {kind: {n: v for n, v in resources[kind].items() if n.startswith("nvidia.com/")} for kind in resources}
        assert asked["requests"] == asked["limits"]
        assert sum(map(int, asked["limits"].values())) == int(group["resources"].get("GPU", 0))


def test_a_group_says_where_its_pods_go() -> None:
    several = groups(render("ci/several-gpu-groups-values.yaml"))
    assert pod(several["l4"])["nodeSelector"] == {"example.com/card": "l4"}
    assert pod(several["l4"])["runtimeClassName"] == "nvidia"
    assert pod(several["mig"])["priorityClassName"] == "high"
    assert "nodeAffinity" in pod(several["mig"])["affinity"]
    assert several["mig"]["template"]["metadata"]["labels"]["example.com/cost-centre"] == "vision"
    assert several["mig"]["template"]["metadata"]["annotations"] == {"example.com/note": "two slices"}
    (toleration,) = pod(groups(render())["gpu"])["tolerations"]
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def test_a_group_that_is_off_is_not_there() -> None:
    assert set(groups(render("ci/several-gpu-groups-values.yaml"))) == {"cpu", "l4", "mig"}
    assert set(
        groups(
            render(
                set={
                    "workers.cpu": None,
                    "workers.gpu.stages": ["ingress", "preprocess", "engine"],
                    "workers.gpu.replicas.max": 4,
                    "workers.gpu.replicas.min": 1,
                }
            )
        )
    ) == {"gpu"}


# -- the model --------------------------------------------------------------------------------------


def test_weights_are_mounted_where_they_are_read_and_nowhere_else() -> None:
    values = {"workers.doors": {**small_group(["ingress"])}, "workers.cpu.stages": ["preprocess"]}
    mounted = groups(render("values-cluster.yaml", set=values))
    for name, reads in {"doors": False, "cpu": True, "gpu": True}.items():
        claims = [each["persistentVolumeClaim"] for each in pod(mounted[name])["volumes"] if each["name"] == "models"]
        assert claims == [{"claimName": "glm-glm-vision-serve-models"}] * reads
        environment = {each["name"]: each.get("value") for each in pod(mounted[name])["containers"][0]["env"]}
        assert environment.get("HF_HOME") == ("/models/huggingface" if reads else None)
        assert environment.get("TRITON_CACHE_DIR") == ("/models/triton" if name == "gpu" else None)


def small_group(stages: list[str]) -> dict[str, Any]:
    resources = {"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}
    return {"stages": stages, "replicas": {"min": 1, "max": 9}, "resources": resources, "sharedMemory": "512Mi"}


def test_a_gated_model_s_token_comes_from_a_secret() -> None:
    (token,) = [
        each
        for each in pod(groups(render("ci/existing-claim-values.yaml"))["gpu"])["containers"][0]["env"]
        if each["name"] == "HF_TOKEN"
    ]
    assert token == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}


def test_a_model_can_be_fetched_before_the_worker_starts() -> None:
    workers = groups(render("ci/fetch-model-values.yaml"))
    for group in workers.values():
        (fetch,) = pod(group)["initContainers"]
        assert fetch["args"] == ["copy", "store:models/GLM-4.6V-Flash", "/weights/GLM-4.6V-Flash"]
        assert fetch["envFrom"] == [{"secretRef": {"name": "object-store"}}]
        mounts = [each["mountPath"] for each in fetch["volumeMounts"] if each["name"] == "models"]
        assert mounts == ["/weights"]
        (volume,) = [each for each in pod(group)["volumes"] if each["name"] == "models"]
        assert volume["emptyDir"] == {"sizeLimit": "40Gi"}


def test_a_user_s_claim_wins() -> None:
    values = {"modelStorage.create": True, "modelStorage.existingClaim": "mine"}
    objects = render(set=values)
    assert not of_kind(objects, "PersistentVolumeClaim")
    (volume,) = [each for each in pod(groups(objects)["gpu"])["volumes"] if each["name"] == "models"]
    assert volume["persistentVolumeClaim"] == {"claimName": "mine"}


# -- disruptions ------------------------------------------------------------------------------------


@VALUE_SETS
def test_a_drain_of_a_node_is_never_held_up_for_ever(files: tuple[Path, ...]) -> None:
    """Each budget leaves one pod to go when a group is at its least, and counts no pod without a replica."""
    objects = render(*files)
    least = {name: group["minReplicas"] for name, group in groups(objects).items()}
    for budget in of_kind(objects, "PodDisruptionBudget"):
        name = budget["spec"]["selector"]["matchLabels"]["glm-vision-serve/group"]
        assert 1 <= budget["spec"]["minAvailable"] < least[name]
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_group_of_several_pods_loses_one_at_a_time() -> None:
    budgets = of_kind(render("values-cluster.yaml", set={"workers.gpu.replicas.min": 5}), "PodDisruptionBudget")
    kept = {b["spec"]["selector"]["matchLabels"]["glm-vision-serve/group"]: b["spec"]["minAvailable"] for b in budgets}
    assert kept == {"cpu": 1, "gpu": 4}


def test_ray_counts_cpus_as_the_room_check_does() -> None:
    for files in ((), ("ci/several-gpu-groups-values.yaml",)):
        objects = render(*files)
        for name, group in groups(objects).items():
            resources = pod(group)["containers"][0]["resources"]
            cpu = resources["limits"].get("cpu", resources["requests"]["cpu"])
            assert node_types(objects)[name]["resources"]["CPU"] == math.ceil(quantity(cpu))
