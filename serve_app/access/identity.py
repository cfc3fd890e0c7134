"""Identity: the caller of a request by its API key, JSON Web Token, widget token or trusted proxy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final, Protocol

from serve_app.access.api_keys import ApiKeys
from serve_app.access.check_settings import accepts_anonymous, check_access_settings, is_configured
from serve_app.access.key_file import TenantEntry
from serve_app.access.widget_tokens import PREFIX as WIDGET_PREFIX
from serve_app.access.widget_tokens import widget_tokens
from serve_app.caller import ANONYMOUS, DEFAULT_TENANT, Caller, CallerLimits
from serve_app.errors import Unauthenticated
from serve_app.settings import Settings
from serve_app.settings_access import LimitSettings

KEY_HEADERS: Final = ("api-key", "x-api-key")  # Azure's and Anthropic's clients
MAX_CREDENTIAL: Final = 8192  # characters
MAX_NAME: Final = 128
OTHER_CLASS: Final = "other"


class Tokens(Protocol):
    """Verifies JSON Web Tokens."""

    async def verify(self, token: str) -> Caller:
        """The token's caller, without limits and class. Raises Unauthenticated."""


class Identity:
    """Finds the caller of a request. `host` is the address that the service listens on.

    Raises InvalidRequest if the settings contradict each other.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str,
        clock: Callable[[], float],
        now: Callable[[], float],
        tokens: Tokens | None = None,
    ) -> None:
        check_access_settings(settings)
        access = settings.access
        self._now = now
        self._keys = ApiKeys(Path(access.keys_file), clock) if access.keys_file else None
        self._tokens = tokens
        self._widget_tokens = widget_tokens(access.widget_secret_file, now)
        self._access = access
        self._networks = [ip_network(network) for network in access.trusted_proxies]
        self._caller_limits = caller_limits(settings.limits)
        self._tenant_limits = tenant_limits(settings.limits)
        self._allows_anonymous = accepts_anonymous(settings, host)
        self._needs_nothing = not is_configured(settings)
        self._anonymous = replace(ANONYMOUS, limits=self._caller_limits)
        if not self._needs_nothing:  # else there is no way to have the other scopes
            self._anonymous = replace(self._anonymous, scopes=frozenset({"inference"}))

    async def identify(self, headers: Mapping[str, str], address: str | None) -> Caller:
        """The caller. `headers` have names in small letters; `address` is the peer's. Raises Unauthenticated."""
        if self._needs_nothing:
            if not self._allows_anonymous:
                raise Unauthenticated(
                    "The service listens on an address beyond this machine and has no authentication. Its operator has"
                    " to set access.keys_file or jwt.keys, or access.anonymous to 'allow'."
                )
            return self._anonymous
        credential = credential_of(headers)
        if credential:
            return self._with_tenant(await self._by_credential(credential, headers.get("origin", "")))
        if self._access.proxy_header and self._is_trusted(address):
            name = headers.get(self._access.proxy_header.lower(), "")
            if name:
                return self._with_tenant(self._by_proxy(name, headers))
        if self._allows_anonymous:
            return self._anonymous
        raise Unauthenticated(
            "The request has no API key. Send one as 'Authorization: Bearer KEY', or in the header api-key or"
            " x-api-key."
        )

    def tenant_limits(self, tenant: str) -> CallerLimits:
        """What all callers of a tenant together may use."""
        return self._tenant(tenant).limits.over(self._tenant_limits)

    async def _by_credential(self, credential: str, origin: str) -> Caller:
        if len(credential) > MAX_CREDENTIAL:
            raise Unauthenticated(f"The API key has more than {MAX_CREDENTIAL} characters.")
        if credential.startswith(WIDGET_PREFIX):
            return self._widget_tokens.verify(credential, origin)
        if self._tokens is not None and credential.count(".") == 2:
            return replace(await self._tokens.verify(credential), limits=self._caller_limits)
        entry = self._keys.find(credential) if self._keys is not None else None
        if entry is None:
            raise Unauthenticated("The API key is not valid.")
        if entry.is_expired(self._now()):
            raise Unauthenticated(f"The API key expired at {entry.expires:%Y-%m-%d %H:%M:%S} UTC.")
        limits = entry.limits.over(self._caller_limits)
        expires_at = int(entry.expires.timestamp()) if entry.expires is not None else None
        scopes = frozenset(entry.scopes)
        return Caller(entry.caller, entry.tenant, scopes, OTHER_CLASS, entry.lane, limits, expires_at=expires_at)

    def _by_proxy(self, name: str, headers: Mapping[str, str]) -> Caller:
        header = self._access.proxy_tenant_header.lower()
        tenant = (headers.get(header, "") if header else "") or DEFAULT_TENANT
        for value in (name, tenant):
            if not is_name(value):
                raise Unauthenticated("The proxy's header has no name of 1 to 128 visible characters.")
        return Caller(name, tenant, frozenset({"inference"}), limits=self._caller_limits)

    def _with_tenant(self, caller: Caller) -> Caller:
        metric_class = self._tenant(caller.tenant).metric_class
        return replace(
            caller, metric_class=metric_class if metric_class in self._access.metric_classes else OTHER_CLASS
        )

    def _tenant(self, name: str) -> TenantEntry:
        return self._keys.tenant(name) if self._keys is not None else TenantEntry()

    def _is_trusted(self, address: str | None) -> bool:
        try:
            peer = ip_address(address or "")
        except ValueError:
            return False
        return any(peer in network for network in self._networks)


def credential_of(headers: Mapping[str, str]) -> str:
    """The API key or token of the request; empty if there is none. Raises Unauthenticated for another scheme."""
    authorization = headers.get("authorization", "").strip()
    if authorization:
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise Unauthenticated("The Authorization header is not 'Bearer' and an API key.")
        return credential.strip()
    return next((headers[name].strip() for name in KEY_HEADERS if headers.get(name)), "")


def is_name(value: str) -> bool:
    """Whether a caller or tenant may have this name: 1 to 128 printable characters."""
    return 0 < len(value) <= MAX_NAME and value.isprintable()


def caller_limits(limits: LimitSettings) -> CallerLimits:
    return CallerLimits(
        limits.requests_per_second, limits.concurrent_requests, limits.tokens_per_minute, limits.pictures_per_minute
    )


def tenant_limits(limits: LimitSettings) -> CallerLimits:
    return CallerLimits(
        limits.tenant_requests_per_second,
        limits.tenant_concurrent_requests,
        limits.tenant_tokens_per_minute,
        limits.tenant_pictures_per_minute,
    )
