"""Upgrades that Kubernetes would refuse, because they change volumes that exist, are refused in one sentence."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.chart.api_server import api_server
from tests.chart.render import CHART, HELMS, NAMESPACE, RELEASE, Object, binary, of_kind, render

pytestmark = pytest.mark.chart
VALUES: dict[str, Any] = {"faultTolerance.enabled": True, "modelStorage.create": True}


def rendered_beside(running: list[Object], helm: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """A rendering in a cluster that has the volumes of these objects."""
    volumes = [*of_kind(running, "StatefulSet"), *of_kind(running, "PersistentVolumeClaim")]
    owner = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}
    for each in volumes:
        each["metadata"] |= {"namespace": NAMESPACE, "annotations": owner}
    sets = [part for path, value in (VALUES | values).items() for part in ("--set-json", f"{path}={json.dumps(value)}")]
    with api_server(*volumes) as address:
        command = [binary(helm), "template", RELEASE, CHART, "--namespace", NAMESPACE, "--dry-run=server"]
        command += ["--disable-openapi-validation", "--kube-apiserver", address, *sets]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def changed(helm: str, values: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """What helm says of these values where the release runs with others."""
    run = rendered_beside(render(set=VALUES | (before or {})), helm, values)
    assert run.returncode == 1, run.stdout[:500]
    return run.stderr


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"redis.persistence.size": "2Gi"}, "redis.persistence.size is 2Gi, and was 1Gi"),
        ({"redis.persistence.enabled": False}, "redis.persistence.enabled is false"),
        ({"redis.persistence.storageClassName": "fast"}, 'redis.persistence.storageClassName is "fast", and was ""'),
        (
            {"modelStorage.accessModes": ["ReadWriteOnce"]},
            "modelStorage.accessModes is ReadWriteOnce, and the claim has",
        ),
        ({"modelStorage.storageClassName": "nfs"}, 'modelStorage.storageClassName is "nfs", and the claim has ""'),
        ({"modelStorage.size": "59Gi"}, "modelStorage.size is 59Gi, and the claim has 60Gi"),
    ],
)
def test_a_volume_that_kubernetes_can_not_change_is_refused(values: dict[str, Any], sentence: str, helm: str) -> None:
    assert sentence in changed(helm, values)


@pytest.mark.parametrize("values", [{}, {"modelStorage.size": "80Gi"}, {"redis.persistence.size": "1024Mi"}])
def test_the_same_volume_and_a_larger_claim_are_taken(values: dict[str, Any]) -> None:
    run = rendered_beside(render(set=VALUES), "helm4", values)
    assert run.returncode == 0, run.stderr
