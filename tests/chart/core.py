"""Kubernetes' own objects against the schemas of its releases, and rules that no schema says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate.utils as schemas
import referencing

from tests.chart.quantities import quantity
from tests.chart.render import Object, name_of

RELEASES = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36")

_LABEL_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


def schema_problems(resource: Object, release: str) -> list[str]:
    """What that release's strict schema has against an object; KeyError where the release doesn't know the kind."""
    errors = _validator(release, resource["apiVersion"], resource["kind"]).iter_errors(resource)
    return [f"{'.'.join(map(str, each.absolute_path))}: {each.message[:300]}" for each in errors]


def _folder(release: str) -> str:
    return f"kubernetes-json-schema/v{release}.0-local-strict"


@cache
def _definitions(release: str) -> referencing.Registry[Any]:
    contents = schemas.schema_contents(f"{_folder(release)}/_definitions.json", release)
    return referencing.Resource.from_contents(contents) @ referencing.Registry()


@cache
def _validator(release: str, api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    # rbac.authorization.k8s.io/v1 is stored as rbac-v1
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    try:
        schema = schemas.schema_contents(f"{_folder(release)}/{kind.lower()}-{group}.json", release)
    except FileNotFoundError:
        raise KeyError(f"Kubernetes {release} has no {api_version} {kind}") from None
    registry = referencing.Resource.from_contents(schema) @ _definitions(release)
    return jsonschema.Draft202012Validator(schema, registry=registry)


def pod_templates(resource: Object) -> Iterator[tuple[str, Object]]:
    """Each pod that an object describes, with its place: {"metadata", "spec"}."""
    spec = resource.get("spec") or {}
    if resource["kind"] == "Pod":
        yield name_of(resource), {"metadata": resource["metadata"], "spec": spec}
    elif resource["kind"] == "RayService":
        cluster = spec["rayClusterConfig"]
        yield f"{name_of(resource)} head", cluster["headGroupSpec"]["template"]
        for group in cluster.get("workerGroupSpecs") or ():
            yield f"{name_of(resource)} workers {group['groupName']}", group["template"]
    elif "template" in spec:
        yield name_of(resource), spec["template"]


def as_pod(name: str, template: Object) -> Object:
    """A template as the Pod it makes, for the schemas."""
    metadata = {"name": re.sub(r"[^a-z0-9-]+", "-", name.lower()), **(template.get("metadata") or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def containers(template: Object) -> list[Object]:
    """Init containers and containers of a pod."""
    spec = template["spec"]
    return [*(spec.get("initContainers") or []), *spec["containers"]]


def unsaid_problems(resource: Object) -> list[str]:
    """What the API server refuses though the schema allows it: names, labels, quantities, mounts without a volume.

    Source: Kubernetes' pkg/apis/core/validation/validation.go and apimachinery's pkg/util/validation.
    """
    said = list(_metadata_problems(resource["metadata"], resource["kind"]))
    claims = [each["metadata"]["name"] for each in (resource.get("spec") or {}).get("volumeClaimTemplates") or ()]
    for place, template in pod_templates(resource):
        said += [f"{place}: {each}" for each in _pod_problems(template, claims)]
    return said


def _metadata_problems(metadata: Object, kind: str) -> Iterator[str]:
    # Roles may have any name that is a path segment.
    if not _SUBDOMAIN.fullmatch(metadata["name"]) and not kind.endswith(("Role", "RoleBinding")):
        yield f"metadata.name {metadata['name']!r} is no DNS name"
    # A StatefulSet's pods get its name and a hash of up to ten letters as a label (kubernetes/kubernetes#64023).
    if len(metadata["name"]) > {"Service": 63, "StatefulSet": 52}.get(kind, 253):
        yield f"metadata.name {metadata['name']!r} is too long"
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_NAME.fullmatch(key):
            yield f"label {key!r} is no label name"
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            yield f"label {key}={value!r} is no label value"
    for key, value in (metadata.get("annotations") or {}).items():
        if not isinstance(value, str):
            yield f"annotation {key}={json.dumps(value)} is no string"


def _pod_problems(template: Object, claims: list[str]) -> Iterator[str]:
    yield from _metadata_problems({"name": "pod", **(template.get("metadata") or {})}, "Pod")
    volumes = claims + [each["name"] for each in template["spec"].get("volumes") or ()]
    if len(set(volumes)) < len(volumes):
        yield "two volumes have one name"
    names = [each["name"] for each in containers(template)]
    if len(set(names)) < len(names):
        yield "two containers have one name"
    for container in containers(template):
        yield from (f"container {container['name']}: {each}" for each in _container_problems(container, volumes))


def _container_problems(container: Object, volumes: list[str]) -> Iterator[str]:
    paths = [each["mountPath"] for each in container.get("volumeMounts") or ()]
    if len(set(paths)) < len(paths):
        yield "two volumes are mounted at one path"
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in volumes:
            yield f"mounts {mount['name']!r}, which is no volume"
    for port in container.get("ports") or ():
        name = port.get("name", "x")
        if len(name) > 15 or not _PORT_NAME.fullmatch(name):
            yield f"port name {name!r} is none"
    ports = [each["name"] for each in container.get("ports") or () if "name" in each]
    variables = [each["name"] for each in container.get("env") or ()]
    if len(set(ports)) < len(ports):
        yield "two ports have one name"
    if len(set(variables)) < len(variables):
        yield "one environment variable is set twice"
    for variable in container.get("env") or ():
        if "value" in variable and "valueFrom" in variable:
            yield f"variable {variable['name']} has a value and a source"
    yield from _resource_problems(container.get("resources") or {})


def _resource_problems(resources: Object) -> Iterator[str]:
    requests, limits = (resources.get(each) or {} for each in ("requests", "limits"))
    for name, amount in [*requests.items(), *limits.items()]:
        try:
            quantity(amount)
        except ValueError as error:
            yield f"{name}: {error}"
            return
    for name in requests.keys() & limits.keys():
        if quantity(requests[name]) > quantity(limits[name]):
            yield f"{name}: the request {requests[name]} is above the limit {limits[name]}"
    for name in limits:
        extended = "/" in name
        if extended and name in requests and quantity(requests[name]) != quantity(limits[name]):
            yield f"{name}: request and limit must be equal"
    for name in requests.keys() - limits.keys():
        if "/" in name:
            yield f"{name}: a request needs an equal limit"
