"""What a pod may not do: Kubernetes' Pod Security Standard "restricted", and rules of our own.

Every function takes {"metadata", "spec"} of a pod, or an object, and yields what stands against it. Sources:
kubernetes.io/docs/concepts/security/pod-security-standards (the control's name is in the docstring); "ours" otherwise,
after the checks of kubesec and kube-linter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.chart.core import containers
from tests.chart.quantities import quantity
from tests.chart.render import Object

Complaints = Iterator[str]
PodRule = Callable[[Object], Complaints]

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SECRET_NAME = re.compile(r"password|passwd|secret|token|api_?key|credential|private_?key", re.IGNORECASE)
_NO_SECRET_NAME = re.compile(
    r"_?(mode|file|files|path|paths|name|seconds|count|tokens)$|^(max|target)_|tokens", re.IGNORECASE
)
_PASSWORD_IN_AN_ADDRESS = re.compile(r"://[^/\s:@$]*:[^/\s@$]+@")


def _security(pod: Object, container: Object, field: str) -> Any:
    """What holds for a container: its own word, or the pod's."""
    own = container.get("securityContext") or {}
    return own.get(field, (pod["spec"].get("securityContext") or {}).get(field))


def stays_out_of_the_node(pod: Object) -> Complaints:
    """Host Namespaces; HostPath Volumes; Volume Types; Host Ports"""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod["spec"].get(field):
            yield f"{field} is set"
    for volume in pod["spec"].get("volumes") or ():
        for kind in sorted(volume.keys() - {"name"} - _VOLUMES):
            yield f"the volume {volume['name']} is a {kind}"
    for container in containers(pod):
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield f"{container['name']} takes port {port['hostPort']} of the node"


def has_no_privileges(pod: Object) -> Complaints:
    """Privileged Containers; Privilege Escalation; Capabilities (ours: none may be added)"""
    for container in containers(pod):
        own = container.get("securityContext") or {}
        if own.get("privileged"):
            yield f"{container['name']} is privileged"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{container['name']} may gain privileges"
        capabilities = own.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or ()) or capabilities.get("add"):
            yield f"{container['name']} keeps capabilities"


def is_not_root(pod: Object) -> Complaints:
    """Running as Non-root; Running as Non-root user"""
    for container in containers(pod):
        if _security(pod, container, "runAsNonRoot") is not True:
            yield f"{container['name']} may run as root"
        if _security(pod, container, "runAsUser") == 0:
            yield f"{container['name']} runs as user 0"


def has_the_usual_confinement(pod: Object) -> Complaints:
    """Seccomp; AppArmor; SELinux; /proc Mount Type; Sysctls"""
    for container in containers(pod):
        profile = _security(pod, container, "seccompProfile") or {}
        if profile.get("type") not in {"RuntimeDefault", "Localhost"}:
            yield f"{container['name']} has no seccomp profile"
        for field in ("appArmorProfile", "seLinuxOptions", "procMount"):
            if _security(pod, container, field):
                yield f"{container['name']} sets {field}"
    if (pod["spec"].get("securityContext") or {}).get("sysctls"):
        yield "sysctls are set"


def writes_only_to_volumes(pod: Object) -> Complaints:
    """ours"""
    for container in containers(pod):
        if not (container.get("securityContext") or {}).get("readOnlyRootFilesystem"):
            yield f"{container['name']} may write to its image"


def bounds_its_volumes(pod: Object) -> Complaints:
    """ours: an emptyDir without a limit fills the node's disk or memory"""
    for volume in pod["spec"].get("volumes") or ():
        if "emptyDir" in volume and not quantity((volume["emptyDir"] or {}).get("sizeLimit", 0)):
            yield f"the volume {volume['name']} has no sizeLimit"


def says_what_it_takes(pod: Object) -> Complaints:
    """ours: without a request it is scheduled anywhere, without a limit of memory it takes its neighbours down"""
    for container in containers(pod):
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        for name in ("cpu", "memory"):
            if not quantity((limits | requests).get(name, 0)):
                yield f"{container['name']} requests no {name}"
        if not quantity(limits.get("memory", 0)):
            yield f"{container['name']} has no limit of memory"


def has_a_token_only_to_call_the_api_server(pod: Object) -> Complaints:
    """ours: only the head's autoscaler and the Job of an uninstall speak to the API server"""
    calls = any(each["name"] in {"autoscaler", "uninstall"} for each in containers(pod))
    if pod["spec"].get("automountServiceAccountToken") is not False and not calls:
        yield "the service account's token is mounted"


def has_pinned_images(pod: Object) -> Complaints:
    """ours"""
    for container in containers(pod):
        name, _, digest = container["image"].partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if not digest and tag in {"", "latest"}:
            yield f"{container['name']} runs {container['image']}, whatever that is today"


def says_no_secret(pod: Object) -> Complaints:
    """ours: secrets come by reference"""
    for container in containers(pod):
        for variable in container.get("env") or ():
            value = variable.get("value") or ""
            if _is_secret(variable["name"], value):
                yield f"{container['name']} has {variable['name']} in plain words"
        for word in [*(container.get("command") or ()), *(container.get("args") or ())]:
            flag = re.search(r"--?(?:requirepass|password|redis-password|token)[= ]+([^\s$\"']+)", word)
            if flag or _PASSWORD_IN_AN_ADDRESS.search(word):
                yield f"{container['name']} has a secret in its command"


def _is_secret(name: str, value: str) -> bool:
    if _PASSWORD_IN_AN_ADDRESS.search(value):
        return True
    is_named_so = _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name)
    return bool(is_named_so and value and not value.startswith(("/", "$")))


POD_RULES: tuple[PodRule, ...] = (
    stays_out_of_the_node,
    has_no_privileges,
    is_not_root,
    has_the_usual_confinement,
    writes_only_to_volumes,
    bounds_its_volumes,
    says_what_it_takes,
    has_a_token_only_to_call_the_api_server,
    has_pinned_images,
    says_no_secret,
)


def stays_in_its_namespace(resource: Object) -> Complaints:
    """ours: nothing of the whole cluster, no verb or resource by `*`"""
    if resource["kind"] in {"ClusterRole", "ClusterRoleBinding", "Namespace", "CustomResourceDefinition"}:
        yield f"{resource['kind']} is of the whole cluster"
    if resource["kind"] == "Role":
        for rule in resource.get("rules") or ():
            if any("*" in rule.get(field, ()) for field in ("apiGroups", "resources", "verbs")):
                yield "a rule says *"
    if resource["kind"] == "ServiceAccount" and resource.get("automountServiceAccountToken") is not False:
        yield "the account's token is mounted wherever it is used"


def is_not_open_to_the_world(resource: Object) -> Complaints:
    """ours: what comes from outside comes through an Ingress or a Gateway"""
    if resource["kind"] == "Service" and resource["spec"].get("type", "ClusterIP") != "ClusterIP":
        yield f"the service is a {resource['spec']['type']}"


def config_says_no_secret(resource: Object) -> Complaints:
    """ours: serveConfigV2 and ConfigMaps are read by many"""
    if resource["kind"] == "RayService":
        yield from _secrets_in(yaml.safe_load(resource["spec"]["serveConfigV2"]), "serveConfigV2")
    if resource["kind"] == "ConfigMap":
        for name, value in (resource.get("data") or {}).items():
            if _is_secret(name, "" if "\n" in value else value) or _PASSWORD_IN_AN_ADDRESS.search(value):
                yield f"data.{name} has a secret"


def _secrets_in(value: Any, place: str) -> Complaints:
    if isinstance(value, dict):
        for name, each in value.items():
            if isinstance(each, str) and _is_secret(str(name), each):
                yield f"{place}.{name} has a secret"
            else:
                yield from _secrets_in(each, f"{place}.{name}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _secrets_in(each, f"{place}[{index}]")


OBJECT_RULES: tuple[PodRule, ...] = (stays_in_its_namespace, is_not_open_to_the_world, config_says_no_secret)
