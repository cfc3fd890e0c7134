"""Downloads pictures and files of chat platforms from listed hosts only.

An address comes from outside, so nothing but an exact host of the list is connected to, by https, and no redirect is
followed. Private addresses are not refused: on Tencent's own cloud the documented host has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx

from serve_app.bots.conversation.adapter import FetchFailed

CONNECT_S: Final = 5.0
EXPIRED: Final = frozenset({403, 404, 410})


class Download:
    """Hosts, or origins such as `http://127.0.0.1:9000`, from which files are fetched; `setting` has the list."""

    def __init__(
        self,
        hosts: Sequence[str],
        setting: str,
        *,
        max_bytes: int,
        timeout_s: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._origins = frozenset(host if "://" in host else f"https://{host}" for host in hosts)
        self._setting = setting
        self._max_bytes = max_bytes
        self._client = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            headers={"Accept-Encoding": "identity", "User-Agent": "glm-vision-serve"},
        )

    async def get(self, url: str) -> bytes:
        """The bytes. Raises FetchFailed, whose message has no address, since that has a signature."""
        self._check(url)
        try:
            async with self._client.stream("GET", url) as response:
                if response.status_code in EXPIRED:
                    raise FetchFailed("expired", f"The host answered with status {response.status_code}.")
                if response.status_code != httpx.codes.OK:  # a redirect too
                    raise FetchFailed("not_downloaded", f"The host answered with status {response.status_code}.")
                return await read_limited(response, self._max_bytes)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise FetchFailed("not_downloaded", f"The download failed: {type(error).__name__}.") from error

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
            raise FetchFailed("refused_host", f"The host {origin[:200]!r} is not one of {self._setting}.")


async def read_limited(response: httpx.Response, max_bytes: int) -> bytes:
    """The body of a streamed response, as it was sent. Raises FetchFailed if it has more bytes."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise FetchFailed("too_large", f"It has more than {max_bytes} bytes.")
    return bytes(body)
