"""The `ray start` command that KubeRay 1.7.0 makes of a group's parameters and its container.

Source: ray-project/kuberay v1.7.0, ray-operator/controllers/ray/common/pod.go, the function named at each one here.
"""

from __future__ import annotations

import json
import re

from tests.chart.quantities import quantity, whole
from tests.chart.render import Object

GCS_PORT = 6379
METRICS_PORT = 8080
AGENT_PORT = 52365

Parameters = dict[str, str]

# convertParamMap: flags of `ray start` that take true or false as a value.
_FLAGS_WITH_A_BOOLEAN = frozenset({"log-color", "include-dashboard", "include-log-monitor"})


def parameters_of(group: Object) -> Parameters:
    """rayStartParams with the group's resources and labels in them (updateRayStartParamsResources, …Labels)."""
    parameters: Parameters = dict(group.get("rayStartParams") or {})
    others: dict[str, float] = {}
    for name, amount in (group.get("resources") or {}).items():
        if name.lower() == "cpu":
            parameters["num-cpus"] = str(whole(amount))
        elif name.lower() == "memory":
            parameters["memory"] = str(whole(amount))
        elif is_gpu(name.lower()):
            parameters["num-gpus"] = str(whole(amount))
        else:
            number = quantity(amount)
            others[name] = int(number) if number.denominator == 1 else float(number)
    if others:
        parameters["resources"] = f"'{json.dumps(others, sort_keys=True, separators=(',', ':'))}'"
    if group.get("labels"):
        parameters["labels"] = ",".join(f"{key}={value}" for key, value in sorted(group["labels"].items()))
    return parameters


def is_gpu(resource: str) -> bool:
    """Whether KubeRay counts this resource of a container as GPUs of Ray (utils/resources.go IsGPUResourceKey)."""
    return resource.endswith("gpu") or re.search(r"nvidia\.com/mig-\d+g\.\d+gb$", resource) is not None


def add_common_parameters(parameters: Parameters) -> None:
    """setMissingRayStartParams"""
    parameters.setdefault("metrics-export-port", str(METRICS_PORT))
    parameters["block"] = "true"
    parameters.setdefault("dashboard-agent-listen-port", str(AGENT_PORT))


def gcs_port(cluster: Object) -> str:
    """GetHeadPort"""
    port: str = (cluster["headGroupSpec"].get("rayStartParams") or {}).get("port", str(GCS_PORT))
    return port


def start_command(command: str, parameters: Parameters, ray: Object) -> str:
    """generateRayStartCommand, with addWellKnownAcceleratorResources: what the container has, Ray is told."""
    limits, requests = (ray.get("resources", {}).get(name) or {} for name in ("limits", "requests"))
    cpus = limits.get("cpu") or requests.get("cpu")
    if cpus and quantity(cpus):
        parameters.setdefault("num-cpus", str(whole(cpus)))
    if limits.get("memory"):
        parameters.setdefault("memory", str(whole(limits["memory"])))
    for name in sorted(limits):
        if is_gpu(name) and quantity(limits[name]):
            parameters.setdefault("num-gpus", str(whole(limits[name])))
    return f"{command} {_flags(parameters)}"


def _flags(parameters: Parameters) -> str:
    """convertParamMap: sorted; `true` is a flag alone, `false` is none, with three exceptions."""
    flags = ""
    for name, value in sorted(parameters.items()):
        if value.lower() in {"true", "false"} and name not in _FLAGS_WITH_A_BOOLEAN:
            flags += f" --{name} " if value.lower() == "true" else ""
        else:
            flags += f" --{name}={value} "
    return flags
