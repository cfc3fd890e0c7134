"""The access token of a platform's API: requested once for all callers, and again before its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

EARLY_S: Final = 120.0  # before its end, a token is replaced
SHORTEST_S: Final = 60.0

T = TypeVar("T")


class PlatformError(Exception):
    """A platform refused a call or did not respond."""

    is_token_refused = False
    is_temporary = False  # too many calls, or no response


class AccessToken:
    """`request` returns a token and its lifetime in seconds."""

    def __init__(
        self, request: Callable[[], Awaitable[tuple[str, float]]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._request = request
        self._clock = clock
        self._token, self._ends_at = "", 0.0
        self._requesting: asyncio.Task[str] | None = None

    async def get(self, refused: str = "") -> str:
        """The token. A new one is requested once for all callers, also for those whose token was refused."""
        if self._token and self._token != refused and self._clock() < self._ends_at:
            return self._token
        if self._requesting is None or self._requesting.done():
            self._requesting = asyncio.create_task(self._renew())
        return await asyncio.shield(self._requesting)

    async def call(self, request: Callable[[str], Awaitable[T]], *, retries: int, pause_s: float) -> T:
        """The result of `request`, which takes the token. Raises its PlatformError.

        A refused token is replaced once; after a temporary failure the request is made again, with longer pauses.
        """
        renewed, paused = False, 0
        while True:
            token = ""
            try:
                token = await self.get()
                return await request(token)
            except PlatformError as error:
                if token and not renewed and error.is_token_refused:
                    renewed = True
                    await self.get(refused=token)
                elif error.is_temporary and paused < retries:
                    paused += 1
                    await asyncio.sleep(pause_s * paused)
                else:
                    raise

    async def _renew(self) -> str:
        token, lifetime_s = await self._request()
        self._token, self._ends_at = token, self._clock() + max(SHORTEST_S, lifetime_s - EARLY_S)
        return token
