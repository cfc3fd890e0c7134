"""Who may send requests to a release: anonymous ones only where a value says so, and keys from a Secret."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.render import Object, of_kind, rayservice, refusal, render
from tests.chart.test_notes import notes
from tests.chart.test_serve_config import serve_config

pytestmark = pytest.mark.chart

KEYS = {"auth.keysSecret.name": "glm-keys", "auth.keysSecret.key": "shop.json"}
PROXY = {"settings.access": {"proxy_header": "X-User", "trusted_proxies": ["10.0.0.0/8"]}}
TOKENS = {"settings.jwt": {"keys": "https://id.example/keys", "issuer": "i", "audience": "a"}}


def access(**values: Any) -> dict[str, Any]:
    """The settings of access that the service gets."""
    (application,) = serve_config(render(set=values))["applications"]
    settings: dict[str, Any] = application["args"].get("access", {})
    return settings


def test_the_defaults_allow_requests_without_credentials_in_words_and_the_notes_say_so() -> None:
    assert access() == {"anonymous": "allow"}
    assert "There is no authentication: every client that networkPolicy.clients admits" in notes()


@pytest.mark.parametrize("values", [KEYS, PROXY, TOKENS])
@pytest.mark.parametrize("anonymous", ["allow", "refuse"])
def test_with_authentication_no_request_is_anonymous_whatever_auth_anonymous_is(
    values: dict[str, Any], anonymous: str
) -> None:
    assert "anonymous" not in access(**values, **{"auth.anonymous": anonymous})
    assert "There is no authentication" not in notes("--set", "auth.keysSecret.name=glm-keys")


def test_without_authentication_nothing_is_installed_unless_a_value_says_so() -> None:
    assert "auth.anonymous is refuse, and there is no authentication" in refusal(set={"auth.anonymous": "refuse"})


def test_the_secret_is_mounted_where_the_ingress_runs_as_a_folder_that_follows_its_changes() -> None:
    """A file that is mounted by subPath keeps its first content."""
    objects = render(set=KEYS)
    assert access(**KEYS) == {"keys_file": "/etc/glm-serve/keys/shop.json"}
    groups = {each["groupName"]: each["template"]["spec"] for each in worker_groups(objects)}
    (container,) = groups["cpu"]["containers"]
    assert {"name": "keys", "mountPath": "/etc/glm-serve/keys", "readOnly": True} in container["volumeMounts"]
    assert {"name": "keys", "secret": {"secretName": "glm-keys"}} in groups["cpu"]["volumes"]
    assert "keys" not in [volume["name"] for volume in groups["gpu"]["volumes"]]


def test_the_secrets_of_tokens_and_of_redis_are_files_that_the_settings_name() -> None:
    values = {"auth.jwtSecret.name": "hs256", "auth.limitsRedisSecret.name": "redis-password"}
    objects = render(set=values)
    (application,) = serve_config(objects)["applications"]
    assert application["args"]["jwt"] == {"secret_file": "/etc/glm-serve/jwt/secret"}
    assert application["args"]["limits"] == {"redis_password_file": "/etc/glm-serve/limits-redis/password"}
    assert "access" not in application["args"]
    groups = {each["groupName"]: each["template"]["spec"] for each in worker_groups(objects)}
    secrets = [volume["secret"]["secretName"] for volume in groups["cpu"]["volumes"] if "secret" in volume]
    assert sorted(secrets) == ["hs256", "redis-password"]


def test_helm_test_sends_its_key_from_a_secret() -> None:
    (pod,) = of_kind(render(set={"auth.testKeySecret.name": "test-key"}), "Pod")
    (container,) = pod["spec"]["containers"]
    assert {"name": "KEY_OPTION", "value": "--key-file /key/key"} in container["env"]
    assert {"name": "key", "secret": {"secretName": "test-key"}} in pod["spec"]["volumes"]


def worker_groups(objects: list[Object]) -> list[Object]:
    groups: list[Object] = rayservice(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return groups
