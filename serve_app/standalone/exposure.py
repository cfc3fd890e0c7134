"""Who can reach the API: refuses to start open to the network, or warns where a setting allows it."""

from __future__ import annotations

from pathlib import Path

from serve_app.access.check_settings import accepts_anonymous, is_configured
from serve_app.errors import InvalidRequest
from serve_app.settings import Settings
from serve_app.settings_access import is_loopback


def check_exposure(settings: Settings) -> None:
    """Raises InvalidRequest if the service would refuse every request, or has no file of keys."""
    host, file = settings.http.host, settings.access.keys_file
    if not is_configured(settings) and not accepts_anonymous(settings, host):
        raise InvalidRequest(
            f"{host} can be reached from other machines, and there is no authentication: everybody on the network could"
            " use the service. Make a key with `glm-serve keys add NAME --file keys.json` and start with --keys"
            " keys.json, or allow it with --anonymous allow (access.anonymous)."
        )
    if file and not Path(file).is_file():
        raise InvalidRequest(
            f"The file of keys {file} does not exist. Make it with `glm-serve keys add NAME --file {file}`."
        )


def exposure_warning(settings: Settings) -> str | None:
    """What to know before the API listens on `http.host`; None if only this machine or callers with keys can use it."""
    host = settings.http.host
    if is_loopback(host) or not accepts_anonymous(settings, host):
        return None
    return (
        f"The API listens on {host}:{settings.http.port} and accepts requests without a key (access.anonymous): whoever"
        " reaches this machine can use it, unless a firewall or a proxy decides who may connect."
    )
