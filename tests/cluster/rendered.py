"""What the chart renders for Ray, fitted to a cluster of fake nodes on one machine without a GPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.chart.render import rayservice, render
from tests.cluster.fake_nodes import Group

# Load is reported, looked at and acted on sooner than the chart has it; nothing else of the policy is touched.
SOON = {"metrics_interval_s": 1, "look_back_period_s": 4, "upscale_delay_s": 2, "downscale_delay_s": 4}
SOON_TO_ZERO = {"downscale_to_zero_delay_s": 4}


@dataclass(frozen=True)
class Rendered:
    """The two parts of a RayService that tests here need."""

    serve: dict[str, Any]  # serveConfigV2
    groups: list[dict[str, Any]]  # workerGroupSpecs


def rendered(profile: str, slots: int) -> Rendered:
    """The chart's RayService of a profile, with the demo model and so many slots."""
    values = {"settings.model.path": "", "settings.engine.max_slots": slots, "settings.engine.threads": 1}
    spec = rayservice(render(profile, set=values))["spec"]
    return Rendered(yaml.safe_load(spec["serveConfigV2"]), spec["rayClusterConfig"]["workerGroupSpecs"])


def groups(chart: Rendered, most: int) -> Mapping[str, Group]:
    """The chart's worker groups, from none to so many nodes each."""
    return {
        group["groupName"]: Group(
            {
                "CPU": float(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]),
                **{name: float(amount) for name, amount in group["resources"].items()},
            },
            most,
        )
        for group in chart.groups
    }


def fitted(chart: Rendered, least: int, most: int) -> dict[str, Any]:
    """The chart's serve configuration with these bounds of the engine, one replica of the others, and no patience.

    Further changes: the model runs on the CPU (the engine still asks for its GPU), and there is one proxy, because
    all nodes here share one address.
    """
    config = copy.deepcopy(chart.serve)
    config["proxy_location"] = "HeadOnly"
    (application,) = config["applications"]
    application["args"]["model"]["device"] = "cpu"
    for deployment in application["deployments"]:
        scaling = deployment["autoscaling_config"]
        scaling.pop("initial_replicas", None)
        scaling.update(SOON, min_replicas=1, max_replicas=1)
        if deployment["name"] == "engine":
            scaling.update(SOON_TO_ZERO if least == 0 else {}, min_replicas=least, max_replicas=most)
    return config
