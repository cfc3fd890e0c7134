"""The chart's RayService, fitted to a machine with two cores and no GPU: the demo model in place of the real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from tests.chart.render import Object, rayservice, render

STAGES = ("ingress", "preprocess", "engine")
ANSWER_S = 60  # http.request_timeout_s here; how long a replica and a pod may take to stop follows from it


def release(profile: str = "", values: Mapping[str, Any] | None = None) -> Object:
    """The RayService of a profile, or of the defaults, with the demo model on one thread of a CPU and without a cache.

    Everything else stays as the chart has it: groups, GPUs that replicas ask for, time-outs, environment.
    """
    files = [f"values-{profile}.yaml"] if profile else []
    resource = rayservice(render(*files, set=values))
    config = serve_config(resource)
    arguments = config["applications"][0]["args"]
    arguments["model"] = {"device": "cpu"}
    arguments["cache"] = {"backend": "off"}  # tests repeat questions and mean the model
    arguments.setdefault("engine", {})["threads"] = 1
    arguments["cache"] = {"backend": "off"}  # tests repeat questions and mean the model
    resource["spec"]["serveConfigV2"] = yaml.safe_dump(config)
    return resource


def two_equal_pods(replicas: int, values: Mapping[str, Any] | None = None) -> Object:
    """So many replicas of every stage on two pods, each of which has room for two of each stage."""
    return release(
        "cpu-demo",
        {
            "settings.http.request_timeout_s": ANSWER_S,
            "workers.cpu.replicas": {"min": 2, "max": 2},
            "workers.cpu.resources.limits.cpu": "4",
            **{f"stages.{stage}.replicas": {"min": replicas, "max": replicas} for stage in STAGES},
            **(values or {}),
        },
    )


def serve_config(release: Object, **engine: Any) -> dict[str, Any]:
    """What KubeRay sends to Serve, with these settings of the engine changed."""
    config: dict[str, Any] = yaml.safe_load(release["spec"]["serveConfigV2"])
    if engine:
        config["applications"][0]["args"]["engine"] |= engine
    return config
