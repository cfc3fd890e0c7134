"""The access token of a platform's API: requested once for all callers, and again before its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

EARLY_S: Final = 120.0  # before its end, a token is replaced
SHORTEST_S: Final = 60.0


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

    async def _renew(self) -> str:
        token, lifetime_s = await self._request()
        self._token, self._ends_at = token, self._clock() + max(SHORTEST_S, lifetime_s - EARLY_S)
        return token
