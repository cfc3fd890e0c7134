"""Secrets of the answer cache and the volume of the audit log: where they are mounted, and what the service gets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.render import Object, rayservice, refusal, render
from tests.chart.test_serve_config import serve_config

pytestmark = pytest.mark.chart

SECRET = {"cache.secret.name": "cache", "cache.secret.passwordKey": "password", "cache.secret.signingKey": "key"}
CLAIM = {"audit.existingClaim": "audit", "settings.audit.mode": "required"}


def settings(**values: Any) -> dict[str, Any]:
    (application,) = serve_config(render(set=values))["applications"]
    arguments: dict[str, Any] = application["args"]
    return arguments


def pods(**values: Any) -> dict[str, Object]:
    groups = rayservice(render(set=values))["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return {each["groupName"]: each["template"]["spec"] for each in groups}


def test_the_secret_of_the_cache_is_mounted_where_the_ingress_runs_and_its_files_are_settings() -> None:
    assert settings(**SECRET, **{"settings.cache.backend": "redis"})["cache"] == {
        "backend": "redis",
        "redis_password_file": "/etc/glm-serve/cache/password",
        "signing_key_file": "/etc/glm-serve/cache/key",
    }
    (container,) = pods(**SECRET)["cpu"]["containers"]
    assert {"name": "cache", "mountPath": "/etc/glm-serve/cache", "readOnly": True} in container["volumeMounts"]
    assert {"name": "cache", "secret": {"secretName": "cache"}} in pods(**SECRET)["cpu"]["volumes"]
    assert "cache" not in [volume["name"] for volume in pods(**SECRET)["gpu"]["volumes"]]


def test_a_key_that_is_not_named_is_no_setting() -> None:
    assert settings(**{"cache.secret.name": "cache", "cache.secret.signingKey": "key"})["cache"] == {
        "signing_key_file": "/etc/glm-serve/cache/key"
    }
    assert "cache" not in settings()


def test_the_audit_log_goes_to_the_claim() -> None:
    assert settings(**CLAIM)["audit"] == {"folder": "/audit", "mode": "required"}
    (container,) = pods(**CLAIM)["cpu"]["containers"]
    assert {"name": "audit", "mountPath": "/audit"} in container["volumeMounts"]
    assert {"name": "audit", "persistentVolumeClaim": {"claimName": "audit"}} in pods(**CLAIM)["cpu"]["volumes"]
    assert "audit" not in [volume["name"] for volume in pods(**CLAIM)["gpu"]["volumes"]]


def test_an_audit_log_without_a_volume_is_refused() -> None:
    assert "there is no volume for the audit log" in refusal(set={"settings.audit.mode": "best_effort"})
