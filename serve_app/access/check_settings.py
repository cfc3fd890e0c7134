"""Checks of the settings of access, alone and together, before the service starts."""

from __future__ import annotations

from ipaddress import ip_network
from urllib.parse import urlsplit

from serve_app.errors import InvalidRequest
from serve_app.settings import Settings
from serve_app.settings_access import is_loopback


def check_access_settings(settings: Settings) -> None:
    """Raises InvalidRequest, whose `param` is the setting, for values that could not work or would protect nothing."""
    access, jwt, limits = settings.access, settings.jwt, settings.limits
    for network in access.trusted_proxies:
        try:
            ip_network(network)
        except ValueError as error:
            raise InvalidRequest(
                f"access.trusted_proxies has {network!r}, which is not a network like 10.1.2.0/24: {error}.",
                "access.trusted_proxies",
            ) from error
    if access.proxy_header and not access.trusted_proxies:
        raise InvalidRequest(
            "access.proxy_header is set, but access.trusted_proxies is empty. Name the networks of the proxy.",
            "access.trusted_proxies",
        )
    if jwt.keys and jwt.secret_file:
        raise InvalidRequest("jwt.keys and jwt.secret_file are both set. Choose one of them.", "jwt.secret_file")
    if jwt.enabled and not (jwt.issuer and jwt.audience):
        raise InvalidRequest(
            "JSON Web Tokens need jwt.issuer and jwt.audience; otherwise tokens for other services would be accepted.",
            "jwt.audience",
        )
    url = urlsplit(jwt.keys)
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise InvalidRequest(
            f"jwt.keys is {jwt.keys!r}. Keys over plain http could be replaced by others; use https, or a file.",
            "jwt.keys",
        )
    url = urlsplit(limits.redis_url)
    if limits.redis_url and (url.scheme not in ("redis", "rediss") or url.password):
        raise InvalidRequest(
            "limits.redis_url must be a redis:// or rediss:// address without a password; the file"
            " limits.redis_password_file has the password.",
            "limits.redis_url",
        )


def is_configured(settings: Settings) -> bool:
    """Whether there is any authentication."""
    access = settings.access
    return bool(access.keys_file or access.proxy_header or settings.jwt.enabled)


def accepts_anonymous(settings: Settings, host: str) -> bool:
    """Whether a service that listens on `host` accepts requests without credentials."""
    return settings.access.anonymous == "allow" or (not is_configured(settings) and is_loopback(host))
