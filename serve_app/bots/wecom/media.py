"""Downloads the AI bot's pictures and files, and decrypts them."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from serve_app.bots.conversation.adapter import FetchFailed
from serve_app.bots.conversation.message import FileRef
from serve_app.bots.download import Download
from serve_app.bots.wecom.crypto import BLOCK, CryptoError, decode_key, decrypt_file


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
        self._key = key
        self._download = Download(
            hosts, "wecom.picture_hosts", max_bytes=max_bytes + BLOCK, timeout_s=timeout_s, transport=transport
        )

    async def fetch(self, file: FileRef) -> bytes:
        """The plain bytes. Raises FetchFailed."""
        encrypted = await self._download.get(file.place)
        try:
            key = decode_key(file.key) if file.key else self._key
            if key is None:
                raise CryptoError("The file has no key.")
            return decrypt_file(encrypted, key)
        except CryptoError as error:
            raise FetchFailed("wrong_key", str(error)) from error

    async def close(self) -> None:
        await self._download.close()
