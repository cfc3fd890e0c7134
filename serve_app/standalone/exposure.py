"""Who can reach the API: a warning where it listens on more than this machine."""

from __future__ import annotations

import ipaddress

from serve_app.settings import Settings


def exposure_warning(settings: Settings) -> str | None:
    """What to know before the API listens on `http.host`; None if only this machine can reach it."""
    host = settings.http.host
    if _is_loopback(host):
        return None
    return (
        f"The API listens on {host}:{settings.http.port} without authentication: whoever reaches this machine can use"
        " it. Leave out --host (http.host), or let a firewall or a proxy decide who may connect."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
