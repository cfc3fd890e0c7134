"""Public keys of an identity provider (JWKS), by address or file: cached, read again when they rotate."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from jwt import PyJWK, PyJWTError

from serve_app.metrics import JWKS_ERRORS, Meter

TIMEOUT_S: Final = 5.0  # for the connection, and between two pieces of the response
READ_S: Final = 10.0  # for the complete response
MAX_BYTES: Final = 2**20
COOLDOWN_S: Final = 10.0  # between two readings because of unknown key ids, which anybody can send
# The one algorithm of a key's type and curve (RFC 7518, RFC 8037).
ALGORITHMS: Final[dict[tuple[Any, Any], str]] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}

_log = logging.getLogger("glm.access.jwt")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key, and the only algorithm for which it is accepted."""

    algorithm: str
    key: Any
    id: str | None = None


class KeySet:
    """The current keys. Keys stay in force while the provider does not respond."""

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        *,
        refresh_s: float,
        clock: Callable[[], float],
        meter: Meter,
        read_s: float = READ_S,
    ) -> None:
        self._read = read
        self._read_s = read_s
        self._refresh_s = refresh_s
        self._clock = clock
        self._meter = meter
        self._keys: list[SigningKey] = []
        self._read_at = float("-inf")  # last successful or failed reading
        self._reading: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None, algorithm: str) -> SigningKey | None:
        """The key of this id; without an id the only key of the algorithm. Unknown ids read the keys again."""
        age = self._clock() - self._read_at
        if not self._keys and age > COOLDOWN_S:
            await self._refresh()
        elif age > self._refresh_s:
            self._start_reading()  # in the background: the keys that are known serve meanwhile
        found = self._lookup(key_id, algorithm)
        if found is None and self._clock() - self._read_at > COOLDOWN_S:
            await self._refresh()
            found = self._lookup(key_id, algorithm)
        return found

    def _lookup(self, key_id: str | None, algorithm: str) -> SigningKey | None:
        fitting = [key for key in self._keys if key.algorithm == algorithm and key_id in (None, key.id)]
        return fitting[0] if len(fitting) == 1 else None

    async def _refresh(self) -> None:
        await asyncio.shield(self._start_reading())

    def _start_reading(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._replace())
        return self._reading

    async def _replace(self) -> None:
        try:
            async with asyncio.timeout(self._read_s):
                keys = parse_keys(await self._read())
        except (OSError, ValueError, httpx.HTTPError, TimeoutError) as error:
            self._meter.count(JWKS_ERRORS)
            _log.error("The keys of JSON Web Tokens can't be read; %d stay in force. %s", len(self._keys), error)
        else:
            if [key.id for key in keys] != [key.id for key in self._keys]:
                _log.info("The keys of JSON Web Tokens are now: %s.", ", ".join(str(key.id) for key in keys))
            self._keys = keys
        self._read_at = self._clock()


def parse_keys(document: bytes) -> list[SigningKey]:
    """The keys of a JWKS that verify signatures in a way we know; others are ignored (RFC 7517, section 5).

    Raises ValueError if there is none.
    """
    try:
        entries = list(json.loads(document)["keys"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"The document is not a JWKS: {error!r}.") from error
    keys = [key for entry in entries if isinstance(entry, dict) and (key := _signing_key(entry)) is not None]
    if not keys:
        raise ValueError("The document has no key for RS256, ES256 or EdDSA.")
    return keys


def _signing_key(entry: dict[str, Any]) -> SigningKey | None:
    """The public key of an entry; None for other uses, private keys (everybody could sign) and what is not valid."""
    kind, key_id = (str(entry.get("kty")), entry.get("crv")), entry.get("kid")
    if not (isinstance(kind[1], str | None) and isinstance(key_id, str | None)) or "d" in entry:
        return None
    algorithm = ALGORITHMS.get(kind)
    if algorithm is None or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        return SigningKey(algorithm, PyJWK(entry, algorithm).key, key_id)
    except (PyJWTError, ValueError, TypeError) as error:
        _log.warning("The entry %r of the keys of JSON Web Tokens is not valid, so it is ignored. %s", key_id, error)
        return None


def reader(source: str) -> Callable[[], Awaitable[bytes]]:
    """Reads a JWKS from an address or a file."""

    async def fetch() -> bytes:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client, client.stream("GET", source) as response:
            response.raise_for_status()
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ValueError(f"The document has more than {MAX_BYTES} bytes.")
            return content

    async def read() -> bytes:
        return await asyncio.to_thread(Path(source).read_bytes)

    return fetch if source.startswith(("https://", "http://")) else read
