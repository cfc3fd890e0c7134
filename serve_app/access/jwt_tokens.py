"""JSON Web Tokens: verifies signature and claims, and makes the caller that a token names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt

from serve_app.access.identity import is_name
from serve_app.access.key_sets import KeySet, SigningKey, reader
from serve_app.caller import DEFAULT_TENANT, SCOPES, Caller, Scope
from serve_app.errors import InvalidRequest, Unauthenticated
from serve_app.metrics import Meter
from serve_app.settings_access import JwtSettings

MAX_KEY_ID: Final = 256  # characters
MIN_SECRET_BYTES: Final = 32  # RFC 7518, section 3.2: as long as the hash of HS256
SECRET_ALGORITHM: Final = "HS256"


class JwtVerifier:
    """Verifies tokens by an identity provider's public keys, or by a shared secret.

    The key decides which algorithm is accepted, never the token alone (RFC 8725, section 3.1): a token signed with
    HS256 and a public key as its secret is refused, and so is `alg: none`. Key ids are looked up among the known keys;
    headers that name other keys (`jku`, `x5u`, `jwk`) are not read.
    """

    def __init__(self, settings: JwtSettings, keys: KeySet | None) -> None:
        self._settings = settings
        self._keys = keys
        self._secret = None if keys is not None else SigningKey(SECRET_ALGORITHM, _read_secret(settings.secret_file))

    async def verify(self, token: str) -> Caller:
        """The token's caller. Raises Unauthenticated."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._secret or await self._key(header)
            if header.get("alg") != key.algorithm:
                raise Unauthenticated("The token is not signed in a way that this service accepts.")
            if "crit" in header:
                raise Unauthenticated("The token requires extensions that this service does not have.")
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=self._settings.leeway_s,
                options={"require": ["exp", "iss", "aud", self._settings.caller_claim]},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The token has expired.") from error
        except jwt.ImmatureSignatureError as error:
            raise Unauthenticated("The token is not valid yet.") from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise Unauthenticated("The token is not valid.") from error
        return self._caller(claims)

    async def _key(self, header: dict[str, Any]) -> SigningKey:
        assert self._keys is not None
        key_id = header.get("kid")
        if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= MAX_KEY_ID):
            raise Unauthenticated("The token's key id is not valid.")
        algorithm = header.get("alg")
        if algorithm not in self._settings.algorithms:
            raise Unauthenticated("The token is not signed in a way that this service accepts.")
        key = await self._keys.find(key_id, str(algorithm))
        if key is None:
            raise Unauthenticated("The token is signed with a key that is not known.")
        return key

    def _caller(self, claims: dict[str, Any]) -> Caller:
        settings = self._settings
        caller = claims.get(settings.caller_claim)
        tenant = claims.get(settings.tenant_claim, "") if settings.tenant_claim else DEFAULT_TENANT
        for claim, value in ((settings.caller_claim, caller), (settings.tenant_claim, tenant)):
            if not (isinstance(value, str) and is_name(value)):
                raise Unauthenticated(f"The token's claim {claim!r} is not a name of 1 to 128 characters.")
        return Caller(str(caller), str(tenant), self._scopes(claims), expires_at=int(claims["exp"]))

    def _scopes(self, claims: dict[str, Any]) -> frozenset[Scope]:
        if not self._settings.scope_claim:
            return frozenset(SCOPES[:1])
        given = claims.get(self._settings.scope_claim, "")
        names = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
        return frozenset(scope for scope in SCOPES if scope in names)


def jwt_verifier(settings: JwtSettings, *, clock: Callable[[], float], meter: Meter) -> JwtVerifier | None:
    """None if the settings have no tokens. Raises InvalidRequest."""
    if not settings.enabled:
        return None
    keys = None
    if settings.keys:
        keys = KeySet(reader(settings.keys), refresh_s=settings.refresh_s, clock=clock, meter=meter)
    return JwtVerifier(settings, keys)


def _read_secret(path: str) -> bytes:
    """The shared secret. Raises InvalidRequest."""
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise InvalidRequest(f"The file jwt.secret_file can't be read: {error}.", "jwt.secret_file") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise InvalidRequest(
            f"The secret in {path} has {len(secret)} bytes; HS256 needs {MIN_SECRET_BYTES} at least.", "jwt.secret_file"
        )
    return secret
