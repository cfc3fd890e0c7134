"""Who sends a request: the caller's id, tenant, scopes, lane and limits."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final, Literal, TypeAlias

Scope: TypeAlias = Literal["inference", "metrics", "admin", "widget", "chat"]
Lane: TypeAlias = Literal["interactive", "batch"]

SCOPES: Final[tuple[Scope, ...]] = ("inference", "metrics", "admin", "widget", "chat")
DEFAULT_TENANT: Final = "default"


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What a caller, or all callers of a tenant together, may use; 0: no limit."""

    requests_per_second: float = 0.0
    concurrent_requests: int = 0
    tokens_per_minute: int = 0  # of prompts and answers
    pictures_per_minute: int = 0

    def within(self, most: CallerLimits) -> CallerLimits:
        """These limits, none above that of `most`."""
        pairs = zip(astuple(self), astuple(most), strict=True)
        return CallerLimits(*(min((limit for limit in pair if limit), default=0) for pair in pairs))


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request; the default is the anonymous caller, where no authentication is configured.

    `id` and `tenant` are written to logs and must not be metric labels; `metric_class` is one of a closed set.
    Nothing that depends on prompts or answers is shared between tenants.
    """

    id: str = "anonymous"
    tenant: str = DEFAULT_TENANT
    scopes: frozenset[Scope] = frozenset(SCOPES)
    metric_class: str = "anonymous"
    lane: Lane = "interactive"
    limits: CallerLimits = CallerLimits()
    limits_key: str = ""  # for what the limits are counted; empty: for the id
    issuer_limits: CallerLimits = CallerLimits()  # of the key that issued a widget token, counted for the id
    expires_at: int | None = None  # when the credentials expire, in seconds since 1970


ANONYMOUS: Final = Caller()
