"""values.schema.json: what pods take, of every pod of the release and of those of Ray."""

from __future__ import annotations

from schema_parts import AMOUNT, FLAG, FREE, LABELS, STRINGS, TEXT, Schema, objects, one_of, only, some, tolerations


def placement() -> dict[str, Schema]:
    """Where a pod runs, and what is written on it: what every pod of the release takes."""
    return {
        "nodeSelector": LABELS,
        "tolerations": tolerations(),
        "affinity": FREE,
        "topologySpreadConstraints": objects(),
        "priorityClassName": TEXT,
        "runtimeClassName": TEXT,
        "schedulerName": TEXT,
        "hostAliases": objects(),
        "dnsPolicy": one_of("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
        "dnsConfig": FREE,
        "hostNetwork": FLAG,
        "podAnnotations": STRINGS,
        "podLabels": LABELS,
    }


def additions() -> dict[str, Schema]:
    """What is added to the pods of Ray, for all of them or for one."""
    volume = {**some(name=TEXT), "required": ["name"]}
    mount = {**some(name=TEXT, mountPath={"type": "string", "pattern": "^/"}), "required": ["name", "mountPath"]}
    container = {**some(name=TEXT, image=TEXT), "required": ["name", "image"]}
    return {
        "extraEnv": environment(),
        "extraEnvFrom": objects(),
        "extraVolumes": {"type": "array", "items": volume},
        "extraVolumeMounts": {"type": "array", "items": mount},
        "extraInitContainers": {"type": "array", "items": container},
        "extraContainers": {"type": "array", "items": container},
    }


def environment() -> Schema:
    variable = {**only(name={"type": "string", "pattern": "^[^=]+$"}, value=TEXT, valueFrom=FREE), "required": ["name"]}
    return {"type": "array", "items": variable}


def ray_pod() -> dict[str, Schema]:
    """The values that head and worker groups share."""
    return {
        # Ray takes a pod's memory from its limit.
        "resources": {
            **only(requests=some(cpu=AMOUNT), limits={**some(memory=AMOUNT), "required": ["memory"]}, claims=objects()),
            "required": ["requests", "limits"],
        },
        "sharedMemory": AMOUNT,
        "temporaryStorage": AMOUNT,
        "image": only(**image_name()),
        "lifecycle": only(postStart=FREE, preStop=FREE),
        "resourceClaims": objects(),
        **placement(),
        **additions(),
    }


def image_name() -> dict[str, Schema]:
    return {
        "repository": {"type": "string", "minLength": 1},
        "tag": {"type": "string", "pattern": "^[\\w.-]{0,128}$"},
        "digest": {"type": "string", "pattern": "^$|^sha256:[0-9a-f]{64}$"},
    }
