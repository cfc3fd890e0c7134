"""The store in Redis: a time limit for every call, and a circuit breaker for a server that is down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serve_app.cache.circuit_breaker import CircuitBreaker
from serve_app.cache.store import StoreUnavailable
from serve_app.redis_login import redis_login
from serve_app.settings_cache import CacheSettings

CONNECTIONS: Final = 32
PREFIX: Final = "glm:"  # of all our keys


class RedisStore:
    """Bytes by key in Redis, which removes them after their time."""

    def __init__(self, settings: CacheSettings, breaker: CircuitBreaker | None = None) -> None:
        self._timeout_s = settings.redis_timeout_ms / 1000
        self._breaker = breaker or CircuitBreaker()
        pool = BlockingConnectionPool.from_url(
            settings.redis_url,
            **redis_login(settings, "cache"),
            max_connections=CONNECTIONS,
            timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            socket_timeout=self._timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Redis = Redis(connection_pool=pool)

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._call(lambda: self._redis.get(PREFIX + key))
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._call(lambda: self._redis.set(PREFIX + key, value, px=max(1, round(ttl_s * 1000))))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _call(self, command: Callable[[], Any]) -> Any:
        """The result of a command; raises StoreUnavailable when it fails, is late, or the breaker is open."""
        if not self._breaker.allows():
            raise StoreUnavailable("Redis did not respond lately.")
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await command()
        except (RedisError, OSError, TimeoutError) as error:
            self._breaker.failed()
            raise StoreUnavailable(f"Redis did not respond: {error}") from error
        self._breaker.succeeded()
        return result
