"""The request of /v1/widget/tokens: the origin of the site, the token's lifetime and limits."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from pydantic import Field

from serve_app.caller import CallerLimits
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import Integer, RequestBody, StrictModel
from serve_app.ingress.validation import truncate

MAX_VALID_S: Final = 3600
DEFAULT_VALID_S: Final = 600
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class WidgetLimits(StrictModel):
    """What one token may be used for; 0: no limit. The limits of its key and its tenant apply besides."""

    requests_per_second: float = Field(1.0, ge=0, le=1e6, description="Questions per second.")
    concurrent_requests: Integer = Field(2, ge=0, description="Questions in progress.")
    tokens_per_minute: Integer = Field(0, ge=0, description="Tokens per minute, of prompts and answers.")
    pictures_per_minute: Integer = Field(0, ge=0, description="Pictures per minute.")

    def as_contract(self) -> CallerLimits:
        return CallerLimits(
            self.requests_per_second, self.concurrent_requests, self.tokens_per_minute, self.pictures_per_minute
        )


class WidgetTokenBody(RequestBody):
    """The site whose pages may use the token, and for how long."""

    origin: str = Field(
        min_length=1,
        max_length=300,
        description="Origin of the pages, such as `https://shop.example`; one of `http.allowed_origins`.",
    )
    expires_in_s: Integer = Field(
        DEFAULT_VALID_S, ge=1, le=MAX_VALID_S, description="The token's lifetime, in seconds."
    )
    limits: WidgetLimits = Field(WidgetLimits(), description="Limits of this token.")


def _is_origin(origin: str) -> bool:
    """Whether a browser writes an origin like this: without user, path and default port."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in DEFAULT_PORTS or f"{parts.scheme}://{parts.netloc}" != origin or not parts.hostname:
        return False
    return "@" not in parts.netloc and not parts.netloc.endswith(":") and port != DEFAULT_PORTS[parts.scheme]


def check_origin(origin: str, allowed: tuple[str, ...]) -> None:
    """Raises InvalidRequest if this is no origin, or pages of it can't call the service."""
    if not _is_origin(origin):
        raise InvalidRequest(
            f"'origin' is {truncate(origin)!r}. It must be a scheme, a host and a port if it is not the default one,"
            " such as 'https://shop.example', without a path.",
            "origin",
        )
    if "*" not in allowed and origin.lower() not in {each.lower() for each in allowed}:
        raise InvalidRequest(
            f"Pages of {truncate(origin)!r} may not call this service. Its operator has to add the origin to the"
            " setting http.allowed_origins.",
            "origin",
        )
