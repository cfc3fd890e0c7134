"""upgrade.strategy None: image and settings that change together are refused, as pods would get only the settings."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.chart.api_server import api_server
from tests.chart.render import CHART, HELMS, NAMESPACE, RELEASE, binary, rayservice, render

pytestmark = pytest.mark.chart
SINGLE = "values-single-24g.yaml"


def upgraded(helm: str, *arguments: str, running: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """A rendering with the RayService of the earlier release in the cluster."""
    service = rayservice(render(SINGLE, set=running))
    service["metadata"]["namespace"] = NAMESPACE
    owner = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}
    service["metadata"]["annotations"] = owner
    with api_server(service) as address:
        command = [binary(helm), "template", RELEASE, CHART, "--namespace", NAMESPACE, "--values", CHART / SINGLE]
        command += ["--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", address, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("helm", HELMS)
def test_a_new_image_with_new_settings_is_refused(helm: str) -> None:
    run = upgraded(helm, "--set", "image.tag=0.2.0", "--set", "settings.engine.max_slots=4")
    assert run.returncode == 1
    assert (
        "The image changes from glm-vision-serve:0.1.0-cpu to glm-vision-serve:0.2.0, and `settings` change"
        in run.stderr
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", "image.tag=0.2.0"),
        ("--set", "settings.engine.max_slots=4"),
        ("--set", "image.tag=0.2.0,settings.engine.max_slots=4,upgrade.strategy=NewCluster"),
    ],
)
def test_one_of_them_alone_or_a_second_cluster_is_taken(arguments: tuple[str, str]) -> None:
    run = upgraded("helm4", *arguments)
    assert run.returncode == 0, run.stderr
