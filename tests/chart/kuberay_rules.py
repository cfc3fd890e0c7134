"""What KubeRay 1.7.0 refuses in a RayService, though its definition allows it: one function a rule.

Source: ray-project/kuberay v1.7.0, ray-operator/controllers/ray/utils/validation.go, the function named at each one.
Every function takes the resource with the definition's defaults applied and yields what the operator would say against
it, in our words. Checks of the API server (tests/chart/crd.py) are not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.chart.render import Object

LONGEST_NAME = 47  # constant.go MaxRayServiceNameLength: room for "-abcde" and "-serve-svc"
TOKEN_SINCE = (2, 52)
PRIORITY_SINCE = (2, 56)

Complaints = Iterator[str]
Rule = Callable[[Object], Complaints]

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")
_DURATION = re.compile(r"(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+")


def cluster_of(rayservice: Object) -> Object:
    cluster: Object = rayservice["spec"]["rayClusterConfig"]
    return cluster


def workers_of(rayservice: Object) -> list[Object]:
    return cluster_of(rayservice).get("workerGroupSpecs") or []


def groups_of(rayservice: Object) -> list[tuple[str, Object]]:
    return [
        ("the head", cluster_of(rayservice)["headGroupSpec"]),
        *((g["groupName"], g) for g in workers_of(rayservice)),
    ]


def parameters_of(group: Object) -> dict[str, str]:
    return group.get("rayStartParams") or {}


def _head_environment(rayservice: Object) -> dict[str, Any]:
    containers = cluster_of(rayservice)["headGroupSpec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value") for each in (containers[0].get("env") or [])} if containers else {}


def _is_autoscaled(rayservice: Object) -> bool:
    return bool(cluster_of(rayservice).get("enableInTreeAutoscaling"))


def _has_autoscaler_2(rayservice: Object) -> bool:
    """utils/util.go IsAutoscalingV2Enabled: it has to be said, whatever Ray's own default is."""
    return (cluster_of(rayservice).get("autoscalerOptions") or {}).get("version") == "v2"


def is_incremental(rayservice: Object) -> bool:
    strategy = rayservice["spec"].get("upgradeStrategy") or {}
    return bool(strategy.get("type") == "NewClusterWithIncrementalUpgrade")


def _ray_version(rayservice: Object) -> tuple[int, ...] | None:
    match = re.match(r"v?(\d+)\.(\d+)", cluster_of(rayservice).get("rayVersion") or "")
    return tuple(map(int, match.groups())) if match else None


def name_fits(rayservice: Object) -> Complaints:
    """ValidateRayServiceMetadata"""
    name = rayservice["metadata"]["name"]
    if len(name) > LONGEST_NAME:
        yield f"the name {name!r} has {len(name)} characters, at most {LONGEST_NAME} fit"
    if not _DNS_1035.fullmatch(name):
        yield f"the name {name!r} is no DNS-1035 label"


def initializing_timeout_is_a_duration(rayservice: Object) -> Complaints:
    """validateInitializingTimeout"""
    limit = (rayservice["metadata"].get("annotations") or {}).get("ray.io/initializing-timeout", "")
    if limit and (not (_DURATION.fullmatch(limit) or limit.isdecimal()) or not re.search(r"[1-9]", limit)):
        yield f"ray.io/initializing-timeout {limit!r} is no positive duration"


def pods_have_containers(rayservice: Object) -> Complaints:
    """ValidateRayClusterSpec"""
    for name, group in groups_of(rayservice):
        if not group["template"]["spec"]["containers"]:
            yield f"{name} has no container"


def resources_are_said_once(rayservice: Object) -> Complaints:
    """validateRayGroupResources"""
    for name, group in groups_of(rayservice):
        said = {"num-cpus", "num-gpus", "memory", "resources"} & {
            key for key, value in parameters_of(group).items() if value
        }
        if said and group.get("resources"):
            yield f"{name} has resources and rayStartParams {', '.join(sorted(said))}"


def labels_are_labels(rayservice: Object) -> Complaints:
    """validateRayGroupLabels"""
    for name, group in groups_of(rayservice):
        if "labels" in parameters_of(group):
            yield f"{name} has labels in rayStartParams; the group's own field is meant"
        for key, value in (group.get("labels") or {}).items():
            if not _LABEL_NAME.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                yield f"{name} has the label {key}={value}, which is none"


def replicas_are_in_order(rayservice: Object) -> Complaints:
    """ValidateRayClusterSpec; also that the wanted number lies between the two, which it would silently be moved to"""
    for group in workers_of(rayservice):
        least, most = group["minReplicas"], group["maxReplicas"]
        if not 0 <= least <= most:
            yield f"{group['groupName']} has replicas from {least} to {most}"
        elif not least <= group["replicas"] <= most:
            yield f"{group['groupName']} has {group['replicas']} replicas, not between {least} and {most}"


def idle_timeouts_have_autoscaler_2(rayservice: Object) -> Complaints:
    """validateWorkerGroupIdleTimeout; ValidateRayClusterSpec for the cluster's own"""
    common = (cluster_of(rayservice).get("autoscalerOptions") or {}).get("idleTimeoutSeconds")
    if common is not None and common < 0:
        yield f"autoscalerOptions.idleTimeoutSeconds is {common}"
    for group in workers_of(rayservice):
        own = group.get("idleTimeoutSeconds")
        if own is not None and own < 0:
            yield f"{group['groupName']} has idleTimeoutSeconds {own}"
        if own is not None and not _has_autoscaler_2(rayservice):
            yield f"{group['groupName']} has idleTimeoutSeconds without autoscaler version v2"


def priorities_have_autoscaler_2(rayservice: Object) -> Complaints:
    """validateWorkerGroupPriority"""
    for group in workers_of(rayservice):
        if not group.get("priority"):
            continue
        version = _ray_version(rayservice)
        if version is None or version < PRIORITY_SINCE:
            yield f"{group['groupName']} has a priority, which needs rayVersion 2.56"
        if not _has_autoscaler_2(rayservice):
            yield f"{group['groupName']} has a priority without autoscaler version v2"


def fault_tolerance_is_said_in_one_place(rayservice: Object) -> Complaints:
    """ValidateRayClusterSpec"""
    options = cluster_of(rayservice).get("gcsFaultToleranceOptions")
    annotations = rayservice["metadata"].get("annotations") or {}
    environment = _head_environment(rayservice)
    parameters = parameters_of(cluster_of(rayservice)["headGroupSpec"])
    if parameters.get("redis-username") or "REDIS_USERNAME" in environment:
        yield "the Redis user name belongs to gcsFaultToleranceOptions"
    if options is None:
        if "RAY_REDIS_ADDRESS" in environment and annotations.get("ray.io/ft-enabled", "").lower() != "true":
            yield "RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions"
        return
    if annotations.get("ray.io/ft-enabled"):
        yield "the annotation ray.io/ft-enabled stands beside gcsFaultToleranceOptions"
    if annotations.get("ray.io/external-storage-namespace"):
        yield "the annotation ray.io/external-storage-namespace stands beside gcsFaultToleranceOptions"
    if parameters.get("redis-password"):
        yield "redis-password stands in rayStartParams beside gcsFaultToleranceOptions"
    for name in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS"):
        if name in environment:
            yield f"{name} stands in the head's environment beside gcsFaultToleranceOptions"


def fault_tolerance_fits_its_backend(rayservice: Object) -> Complaints:
    """validateGcsFaultToleranceBackend; Redis has an address, without which the head would start alone"""
    options = cluster_of(rayservice).get("gcsFaultToleranceOptions")
    if options is None or options.get("backend", "redis") != "redis":
        return  # rocksdb: a feature gate, see below
    if options.get("storage"):
        yield "gcsFaultToleranceOptions.storage is not for Redis"
    if not options.get("redisAddress"):
        yield "gcsFaultToleranceOptions has no redisAddress"


def nothing_needs_a_feature_that_is_off(rayservice: Object) -> Complaints:
    """pkg/features/features.go defaultFeatureGates; validateGcsFaultToleranceBackend"""
    cluster = cluster_of(rayservice)
    for field, gate in (
        ("networkPolicy", "RayClusterNetworkPolicy"),
        ("tlsOptions", "RayClusterMTLS"),
        ("historyServerOptions", "RayClusterHistoryServer"),
    ):
        if cluster.get(field) is not None:
            yield f"{field} needs the feature gate {gate}"
    if (cluster.get("gcsFaultToleranceOptions") or {}).get("backend") == "rocksdb":
        yield "the backend rocksdb needs the feature gate GCSFaultToleranceEmbeddedStorage"


def suspended_groups_are_not_autoscaled(rayservice: Object) -> Complaints:
    """ValidateRayClusterSpec"""
    for group in workers_of(rayservice):
        if group.get("suspend") and _is_autoscaled(rayservice):
            yield f"{group['groupName']} is suspended and autoscaled"


def autoscaler_version_is_said_in_one_place(rayservice: Object) -> Complaints:
    """ValidateRayClusterSpec"""
    said = _head_environment(rayservice).get("RAY_enable_autoscaler_v2")
    if not _is_autoscaled(rayservice) and said in {"1", "true"}:
        yield "RAY_enable_autoscaler_v2 is set though enableInTreeAutoscaling is not"
    options = cluster_of(rayservice).get("autoscalerOptions") or {}
    if _is_autoscaled(rayservice) and said is not None and options.get("version"):
        yield "RAY_enable_autoscaler_v2 stands beside autoscalerOptions.version"
    if any(each["name"] == "KUBERAY_GEN_AUTOSCALER_START_CMD" for each in options.get("env") or ()):
        yield "KUBERAY_GEN_AUTOSCALER_START_CMD is the operator's"


def autoscaler_2_restarts_nothing(rayservice: Object) -> Complaints:
    """ValidateRayClusterSpec"""
    if not (_is_autoscaled(rayservice) and _has_autoscaler_2(rayservice)):
        return
    for name, group in groups_of(rayservice):
        policy = group["template"]["spec"].get("restartPolicy") or "Never"
        if policy != "Never":
            yield f"{name} has restartPolicy {policy}, autoscaler version v2 wants Never or none"


def tokens_have_a_ray_version(rayservice: Object) -> Complaints:
    """ValidateRayClusterSpec; ValidateRayServiceSpec for Kubernetes' tokens"""
    options = cluster_of(rayservice).get("authOptions") or {}
    if options.get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth is not for a RayService"
    if options.get("mode") == "token":
        version = _ray_version(rayservice)
        if version is None:
            yield "authOptions.mode token needs rayVersion"
        elif version < TOKEN_SINCE:
            yield f"authOptions.mode token needs Ray 2.52, not {cluster_of(rayservice)['rayVersion']}"


def head_service_has_no_name(rayservice: Object) -> Complaints:
    """ValidateRayServiceSpec"""
    service = cluster_of(rayservice)["headGroupSpec"].get("headService") or {}
    if (service.get("metadata") or {}).get("name"):
        yield "headService has a name"


def upgrade_strategy_is_known(rayservice: Object) -> Complaints:
    """ValidateRayServiceSpec; ValidateRayClusterUpgradeOptions"""
    kind = (rayservice["spec"].get("upgradeStrategy") or {}).get("type", "NewCluster")
    if kind not in {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}:
        yield f"upgradeStrategy {kind!r} is unknown"
    if (cluster_of(rayservice).get("upgradeStrategy") or {}).get("type"):
        yield "rayClusterConfig.upgradeStrategy is not for a RayService"


def incremental_upgrade_has_its_options(rayservice: Object) -> Complaints:
    """ValidateClusterUpgradeOptions"""
    if not is_incremental(rayservice):
        return
    if not _is_autoscaled(rayservice):
        yield "the incremental upgrade needs enableInTreeAutoscaling"
    options = rayservice["spec"]["upgradeStrategy"].get("clusterUpgradeOptions")
    if options is None:
        yield "the incremental upgrade needs clusterUpgradeOptions"
        return
    step, surge = options.get("stepSizePercent", -1), options.get("maxSurgePercent", 100)
    if not 0 <= step <= surge <= 100:
        yield f"stepSizePercent {step} and maxSurgePercent {surge} are not 0 <= step <= surge <= 100"
    if options.get("intervalSeconds", 0) <= 0:
        yield "intervalSeconds is not above 0"
    if not options.get("gatewayClassName"):
        yield "gatewayClassName is empty"


def deletion_delay_is_not_negative(rayservice: Object) -> Complaints:
    """ValidateRayServiceSpec"""
    delay = rayservice["spec"].get("rayClusterDeletionDelaySeconds", 0)
    if delay < 0:
        yield f"rayClusterDeletionDelaySeconds is {delay}"


RULES: tuple[Rule, ...] = (
    name_fits,
    initializing_timeout_is_a_duration,
    pods_have_containers,
    resources_are_said_once,
    labels_are_labels,
    replicas_are_in_order,
    idle_timeouts_have_autoscaler_2,
    priorities_have_autoscaler_2,
    fault_tolerance_is_said_in_one_place,
    fault_tolerance_fits_its_backend,
    nothing_needs_a_feature_that_is_off,
    suspended_groups_are_not_autoscaled,
    autoscaler_version_is_said_in_one_place,
    autoscaler_2_restarts_nothing,
    tokens_have_a_ray_version,
    head_service_has_no_name,
    upgrade_strategy_is_known,
    incremental_upgrade_has_its_options,
    deletion_delay_is_not_negative,
)
