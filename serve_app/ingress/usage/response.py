"""The response of /v1/usage."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class UsageOfDay(TypedDict):
    """What the caller used on one day in UTC."""

    day: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    pictures: int
    device_ms: float


class CallerUsage(TypedDict):
    """What the caller used on each of the last 35 days, the newest day first; days without use are left out."""

    object: Literal["usage"]
    caller: str
    tenant: str
    days: list[UsageOfDay]
