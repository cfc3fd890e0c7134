"""Widget tokens: short-lived, signed credentials with which pages of one origin may ask questions."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

import jwt

from serve_app.caller import Caller, CallerLimits
from serve_app.errors import InvalidRequest, Unauthenticated

PREFIX: Final = "glm-widget-"  # before the JSON Web Token: an identity provider's tokens do not have it
SCOPE: Final = "chat"
MIN_SECRET_BYTES: Final = 32
_ALGORITHM: Final = "HS256"
_ISSUER: Final = "glm-vision-serve/widget"
_CLAIMS: Final = ("exp", "iss", "sub", "tenant", "origin", "jti")


class WidgetTokens:
    """Issues and verifies tokens. `now` returns seconds since 1970."""

    def __init__(self, secret: bytes, now: Callable[[], float]) -> None:
        self._secret = secret
        self._now = now

    def issue(self, caller: Caller, origin: str, limits: CallerLimits, valid_s: int) -> tuple[str, int]:
        """A token for pages of this origin, and when it expires, in seconds since 1970.

        It has no higher limits and no longer life than the caller's own credentials.
        """
        expires = int(self._now()) + valid_s
        if caller.expires_at is not None:
            expires = min(expires, caller.expires_at)
        claims = {
            "iss": _ISSUER,
            "sub": caller.id,
            "tenant": caller.tenant,
            "lane": caller.lane,
            "origin": origin.lower(),
            "limits": astuple(limits.within(caller.limits)),
            "issuer_limits": astuple(caller.limits),
            "jti": secrets.token_urlsafe(12),
            "exp": expires,
        }
        return PREFIX + jwt.encode(claims, self._secret, _ALGORITHM), expires

    def verify(self, token: str, origin: str) -> Caller:
        """The token's caller, if a page of `origin`, the request's Origin header, sends it. Raises Unauthenticated.

        Its id is that of the key that issued the token; its limits are counted for each token, those of the
        key for all of its tokens together.
        """
        try:
            options: Any = {"require": list(_CLAIMS), "verify_exp": False}  # checked below, by our own clock
            claims = jwt.decode(
                token.removeprefix(PREFIX), self._secret, algorithms=[_ALGORITHM], issuer=_ISSUER, options=options
            )
        except (jwt.PyJWTError, ValueError) as error:  # ValueError: characters that no token has
            raise Unauthenticated("The widget token is not valid.") from error
        if claims["exp"] <= self._now():
            raise Unauthenticated("The widget token has expired. Get a new one from the site's back end.")
        if claims["origin"] != origin.lower():
            allowed = claims["origin"]
            if not origin:
                raise Unauthenticated(f"The widget token is for pages of {allowed!r}; the request has no Origin.")
            raise Unauthenticated(f"The widget token is for pages of {allowed!r}; a page of {origin[:200]!r} sent it.")
        return Caller(
            claims["sub"],
            claims["tenant"],
            frozenset({SCOPE}),
            lane=claims["lane"],
            limits=CallerLimits(*claims["limits"]),
            limits_key=f"widget:{claims['jti']}",
            issuer_limits=CallerLimits(*claims.get("issuer_limits", ())),  # tokens of an older version have none
            expires_at=claims["exp"],
        )


def widget_tokens(secret_file: str, now: Callable[[], float]) -> WidgetTokens:
    """By the secret of the settings; without one, by a random secret of this process. Raises InvalidRequest."""
    if not secret_file:
        return WidgetTokens(_random_secret(), now)
    try:
        secret = Path(secret_file).read_bytes().strip()
    except OSError as error:
        raise InvalidRequest(
            f"The file access.widget_secret_file can't be read: {error}.", "access.widget_secret_file"
        ) from error
    if len(secret) < MIN_SECRET_BYTES:
        raise InvalidRequest(
            f"The secret in {secret_file} has {len(secret)} bytes; widget tokens need {MIN_SECRET_BYTES} at least.",
            "access.widget_secret_file",
        )
    return WidgetTokens(secret, now)


_RANDOM: Final = secrets.token_bytes(MIN_SECRET_BYTES)


def _random_secret() -> bytes:
    """The same in all of this process: the route that issues tokens and the check of requests share it."""
    return _RANDOM
