"""Usage: what each caller used on each day, in this process or in Redis, and metrics by class of tenants."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Final, Protocol, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from serve_app.access.shared_counters import redis_client
from serve_app.caller import Caller
from serve_app.metrics import CALLER_DEVICE_SECONDS, CALLER_TOKENS, Meter
from serve_app.settings_access import LimitSettings

KEPT_DAYS: Final = 35
DAY_S: Final = 86_400
PREFIX: Final = "glm:usage"
STORE_TIMEOUT_S: Final = 1.0  # nobody waits for it but GET /v1/usage
GATHER_S: Final = 0.5  # what is recorded within this time is added together
_log = logging.getLogger("glm.access.usage")


@dataclass(frozen=True, slots=True)
class Used:
    """What a request has used, or many together."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    pictures: int = 0
    device_ms: float = 0.0  # time of the GPU, or of the CPU where the model runs on one

    def __add__(self, other: Used) -> Used:
        return Used(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Used)))


Days = dict[str, Used]  # day in UTC, as 2026-11-29 -> use


class UsageStore(Protocol):
    """Where use is kept, for `KEPT_DAYS` days."""

    async def add(self, day: str, tenant: str, caller: str, used: Used) -> None: ...

    async def of_caller(self, days: list[str], tenant: str, caller: str) -> Days: ...


class LocalUsage:
    """Use of this process, until it ends."""

    def __init__(self) -> None:
        self._days: defaultdict[str, dict[tuple[str, str], Used]] = defaultdict(dict)

    async def add(self, day: str, tenant: str, caller: str, used: Used) -> None:
        callers = self._days[day]
        callers[tenant, caller] = callers.get((tenant, caller), Used()) + used
        for old in sorted(self._days)[:-KEPT_DAYS]:
            del self._days[old]

    async def of_caller(self, days: list[str], tenant: str, caller: str) -> Days:
        known = {day: self._days[day].get((tenant, caller)) for day in days if day in self._days}
        return {day: used for day, used in known.items() if used is not None}


class RedisUsage:
    """Use of all processes: one hash for each caller and day."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, day: str, tenant: str, caller: str, used: Used) -> None:
        key = _key(day, tenant, caller)
        pipeline = self._redis.pipeline(transaction=False)
        for name, value in asdict(used).items():
            if value:
                pipeline.hincrbyfloat(key, name, value)
        pipeline.expire(key, KEPT_DAYS * DAY_S)
        await pipeline.execute()

    async def of_caller(self, days: list[str], tenant: str, caller: str) -> Days:
        pipeline = self._redis.pipeline(transaction=False)
        for day in days:
            pipeline.hgetall(_key(day, tenant, caller))
        found = cast(list[dict[bytes, bytes]], await pipeline.execute())
        return {day: _used(values) for day, values in zip(days, found, strict=True) if values}


class UsageRecorder:
    """Adds what requests have used to the store, in the background, and to the metrics.

    Use that is recorded within `GATHER_S` after other use is added together with what comes until then: under load,
    Redis gets two messages a second for each caller, not one for each request.
    """

    def __init__(self, store: UsageStore, meter: Meter, now: Callable[[], float], *, timeout_s: float) -> None:
        self._store = store
        self._meter = meter
        self._now = now
        self._timeout_s = timeout_s
        self._recorded: dict[tuple[str, str, str], Used] = {}  # day, tenant and caller -> what is not added yet
        self._adding: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()  # a reader waits for what is being added

    def record(self, caller: Caller, used: Used) -> None:
        """Returns at once; needs a running event loop."""
        label = caller.metric_class
        self._meter.count(CALLER_TOKENS, used.prompt_tokens + used.completion_tokens, tenant_class=label)
        self._meter.count(CALLER_DEVICE_SECONDS, used.device_ms / 1e3, tenant_class=label)
        key = (_day(self._now()), caller.tenant, caller.id)
        self._recorded[key] = self._recorded.get(key, Used()) + used
        if self._adding is None or self._adding.done():
            self._adding = asyncio.create_task(self._add_from_time_to_time())

    async def of_caller(self, caller: Caller) -> Days:
        """Use of each of the last days that had any, the newest first. Raises ConnectionError or TimeoutError."""
        today = self._now()
        days = [_day(today - age * DAY_S) for age in range(KEPT_DAYS)]
        await asyncio.shield(asyncio.create_task(self._add_recorded()))  # also if this request is cancelled
        async with asyncio.timeout(self._timeout_s):
            try:
                return await self._store.of_caller(days, caller.tenant, caller.id)
            except RedisError as error:
                raise ConnectionError(str(error)) from error

    async def _add_from_time_to_time(self) -> None:
        while self._recorded:
            await self._add_recorded()
            await asyncio.sleep(GATHER_S)

    async def _add_recorded(self) -> None:
        async with self._lock:
            recorded, self._recorded = self._recorded, {}
            try:
                async with asyncio.timeout(self._timeout_s):
                    for (day, tenant, caller), used in recorded.items():
                        await self._store.add(day, tenant, caller, used)
            except (TimeoutError, OSError, RedisError) as error:
                _log.warning("The use of some requests could not be recorded: %s.", type(error).__name__)


def usage_recorder(settings: LimitSettings, meter: Meter, now: Callable[[], float]) -> UsageRecorder:
    """Records in the Redis of the limits, or in this process. Raises InvalidRequest if its password can't be read."""
    store = RedisUsage(redis_client(settings)) if settings.redis_url else LocalUsage()
    return UsageRecorder(store, meter, now, timeout_s=STORE_TIMEOUT_S)


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _key(day: str, tenant: str, caller: str) -> str:
    return f"{PREFIX}:{day}:{len(tenant)}:{tenant}:{caller}"  # the length keeps `a:b` + `c` and `a` + `b:c` apart


def _used(values: dict[bytes, bytes]) -> Used:
    def count(name: str) -> int:
        return int(float(values.get(name.encode(), 0)))

    return Used(
        count("requests"),
        count("prompt_tokens"),
        count("completion_tokens"),
        count("pictures"),
        float(values.get(b"device_ms", 0)),
    )
