"""Downloads the AI bot's pictures and files from listed hosts only, and decrypts them.

An address comes in a message, so nothing but an exact host of `wecom.picture_hosts` is connected to, by https, and no
redirect is followed. Private addresses are not refused: on Tencent's own cloud the documented host has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx

from serve_app.bots.conversation.adapter import FetchFailed
from serve_app.bots.conversation.message import FileRef
from serve_app.bots.wecom.crypto import BLOCK, CryptoError, decode_key, decrypt_file

CONNECT_S: Final = 5.0
_EXPIRED: Final = frozenset({403, 404, 410})


class Media:
    """The pictures of one AI bot. `key` is that of the callback, for files that have none of their own."""

    def __init__(
        self,
        hosts: Sequence[str],
        key: bytes | None,
        *,
        max_bytes: int,
        timeout_s: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._origins = frozenset(host if "://" in host else f"https://{host}" for host in hosts)
        self._key = key
        self._max_bytes = max_bytes
        self._client = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            headers={"Accept-Encoding": "identity", "User-Agent": "glm-vision-serve"},
        )

    async def fetch(self, file: FileRef) -> bytes:
        """The plain bytes. Raises FetchFailed, whose message has no address, since that has a signature."""
        self._check(file.place)
        encrypted = await self._download(file.place)
        try:
            key = decode_key(file.key) if file.key else self._key
            if key is None:
                raise CryptoError("The file has no key.")
            return decrypt_file(encrypted, key)
        except CryptoError as error:
            raise FetchFailed("wrong_key", str(error)) from error

    async def close(self) -> None:
        await self._client.aclose()

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise FetchFailed("refused_host", "The address is not a valid URL.") from error
        default = 443 if parts.scheme == "https" else 80
        origin = f"{parts.scheme}://{parts.hostname or ''}" + (f":{port}" if port not in (None, default) else "")
        if origin not in self._origins or "@" in parts.netloc:
            raise FetchFailed("refused_host", f"The host {origin[:200]!r} is not one of wecom.picture_hosts.")

    async def _download(self, url: str) -> bytes:
        try:
            async with self._client.stream("GET", url) as response:
                if response.status_code in _EXPIRED:
                    raise FetchFailed("expired", f"The host answered with status {response.status_code}.")
                if response.status_code != httpx.codes.OK:  # a redirect too
                    raise FetchFailed("not_downloaded", f"The host answered with status {response.status_code}.")
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > self._max_bytes + BLOCK:
                        raise FetchFailed("too_large", f"It has more than {self._max_bytes} bytes.")
                return bytes(body)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise FetchFailed("not_downloaded", f"The download failed: {type(error).__name__}.") from error
