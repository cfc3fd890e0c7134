"""The caller of a request: by key, by a trusted proxy, or anonymous; and when a service may be anonymous."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.access.check_settings import accepts_anonymous
from serve_app.access.identity import Identity
from serve_app.access.key_file import add_key, new_key
from serve_app.caller import CallerLimits
from serve_app.errors import InvalidRequest, Unauthenticated
from serve_app.settings import Settings
from tests.access.clock import Clock

NOW = 1_800_000_000.0


def identity(host: str = "0.0.0.0", **sections: Any) -> Identity:
    return Identity(Settings.model_validate(sections), host=host, clock=Clock(), now=lambda: NOW)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def added(file: Path, caller: str = "shop", **more: Any) -> str:
    key, entry = new_key(caller, **more)
    add_key(file, entry)
    return key


@pytest.mark.parametrize("header", ["authorization", "api-key", "x-api-key"])
async def test_each_header_that_clients_use_carries_a_key(file: Path, header: str) -> None:
    key = added(file, tenant="acme", lane="batch")
    value = f"Bearer {key}" if header == "authorization" else key
    caller = await identity(access={"keys_file": str(file)}, limits={"tokens_per_minute": 9}).identify(
        {header: value}, None
    )
    assert (caller.id, caller.tenant, caller.lane) == ("shop", "acme", "batch")
    assert caller.scopes == {"inference"}
    assert caller.limits == CallerLimits(tokens_per_minute=9)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "has no API key"),
        ({"authorization": "Bearer nothing"}, "is not valid"),
        ({"authorization": "Basic c2hvcDp4"}, "is not 'Bearer'"),
        ({"authorization": "Bearer"}, "is not 'Bearer'"),
        ({"authorization": "Bearer " + "x" * 9000}, "more than 8192"),
        ({"api-key": "one\ntwo"}, "is not valid"),
        ({"x-api-key": "caf\xe9\udcff"}, "is not valid"),
    ],
)
async def test_other_credentials_are_refused(file: Path, headers: dict[str, str], message: str) -> None:
    added(file)
    with pytest.raises(Unauthenticated, match=message):
        await identity(access={"keys_file": str(file)}).identify(headers, "127.0.0.1")


async def test_an_expired_key_is_refused_with_its_time(file: Path) -> None:
    key = added(file, expires=datetime.fromtimestamp(NOW, UTC) - timedelta(seconds=1))
    with pytest.raises(Unauthenticated, match="expired at 2027-01-15 07:59:59 UTC"):
        await identity(access={"keys_file": str(file)}).identify({"api-key": key}, None)


async def test_a_wrong_key_is_refused_also_where_requests_without_a_key_are_accepted(file: Path) -> None:
    allowing = identity(access={"keys_file": str(file), "anonymous": "allow"})
    assert (await allowing.identify({}, None)).id == "anonymous"
    with pytest.raises(Unauthenticated):
        await allowing.identify({"api-key": "wrong"}, None)


async def test_a_caller_without_a_key_has_all_scopes_only_if_there_are_no_keys(file: Path) -> None:
    added(file)
    with_keys = identity(access={"keys_file": str(file), "anonymous": "allow"})
    assert (await with_keys.identify({}, None)).scopes == {"inference"}
    without_keys = identity(access={"anonymous": "allow"})
    assert (await without_keys.identify({}, None)).scopes == {"inference", "metrics", "admin", "chat", "widget"}


async def test_without_authentication_any_key_is_accepted_on_loopback_as_clients_must_send_one() -> None:
    assert (await identity("127.0.0.1").identify({"authorization": "Bearer none"}, None)).id == "anonymous"
    assert (await identity("127.0.0.1").identify({"authorization": "Basic eA=="}, None)).id == "anonymous"


async def test_without_authentication_every_request_from_the_network_is_refused() -> None:
    with pytest.raises(Unauthenticated, match=r"access\.keys_file or jwt\.keys, or access\.anonymous"):
        await identity("0.0.0.0").identify({}, "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "access", "accepted"),
    [
        ("127.0.0.1", {}, True),
        ("127.8.9.1", {}, True),
        ("localhost", {}, True),
        ("::1", {}, True),
        ("0.0.0.0", {}, False),
        ("::", {}, False),
        ("10.0.0.7", {}, False),
        ("127.evil.example", {}, False),
        ("10.0.0.7", {"anonymous": "allow"}, True),
        ("127.0.0.1", {"keys_file": "keys.json"}, False),
        ("127.0.0.1", {"keys_file": "keys.json", "anonymous": "allow"}, True),
    ],
)
def test_where_requests_without_a_key_are_accepted(host: str, access: dict[str, str], accepted: bool) -> None:
    assert accepts_anonymous(Settings.model_validate({"access": access}), host) is accepted


PROXY = {
    "proxy_header": "X-Forwarded-User",
    "proxy_tenant_header": "X-Forwarded-Group",
    "trusted_proxies": ["10.1.2.0/24", "fd00::/8"],
}


async def test_a_trusted_proxy_names_caller_and_tenant() -> None:
    headers = {"x-forwarded-user": "王小明", "x-forwarded-group": "sales"}
    for address in ("10.1.2.9", "fd00::7"):
        caller = await identity(access=PROXY).identify(headers, address)
        assert (caller.id, caller.tenant, caller.scopes) == ("王小明", "sales", {"inference"})


@pytest.mark.parametrize("address", ["10.1.3.9", "127.0.0.1", "::1", None, "", "unix:", "10.1.2.9.example"])
async def test_the_header_of_a_proxy_is_ignored_from_other_addresses(address: str | None) -> None:
    with pytest.raises(Unauthenticated, match="has no API key"):
        await identity(access=PROXY).identify({"x-forwarded-user": "root"}, address)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129, "tab\there"])
async def test_a_proxys_header_without_a_usable_name_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated):
        await identity(access=PROXY).identify({"x-forwarded-user": name}, "10.1.2.9")


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"access": {"proxy_header": "X-User"}}, "access.trusted_proxies is empty"),
        ({"access": {"trusted_proxies": ["everywhere"]}}, "is not a network"),
        ({"jwt": {"keys": "https://id.example/keys"}}, "need jwt.issuer and jwt.audience"),
        ({"jwt": {"keys": "keys.json", "secret_file": "secret", "issuer": "i", "audience": "a"}}, "are both set"),
        ({"jwt": {"keys": "http://id.example/keys", "issuer": "i", "audience": "a"}}, "over plain http"),
        ({"limits": {"redis_url": "redis://:secret@redis:6379"}}, "without a password"),
        ({"limits": {"redis_url": "http://redis"}}, "must be a redis://"),
    ],
)
def test_settings_that_could_not_work_or_would_protect_nothing_are_refused(
    sections: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        identity(**sections)


def describe_tenants(file: Path, **tenants: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "tenants": tenants}))


async def test_a_tenants_class_is_one_of_the_settings_or_other(file: Path) -> None:
    keys = {tenant: added(file, tenant, tenant=tenant) for tenant in ("acme", "zeta", "nobody")}
    describe_tenants(
        file, acme={"metric_class": "gold", "limits": {"concurrent_requests": 4}}, zeta={"metric_class": "x"}
    )
    finding = identity(
        access={"keys_file": str(file), "metric_classes": ["gold"]}, limits={"tenant_tokens_per_minute": 5}
    )
    classes = {tenant: (await finding.identify({"api-key": key}, None)).metric_class for tenant, key in keys.items()}
    assert classes == {"acme": "gold", "zeta": "other", "nobody": "other"}
    assert finding.tenant_limits("acme") == CallerLimits(concurrent_requests=4, tokens_per_minute=5)
    assert finding.tenant_limits("nobody") == CallerLimits(tokens_per_minute=5)
