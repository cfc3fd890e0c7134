"""What the CPUs have to do, pictures and passing on, and the replicas and pods for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from serve_app.plan.costs import interpolated
from serve_app.plan.measured import EVENT_CPU_S, PICTURE_MS, REQUEST_CPU_S

BUSY: Final = 0.7  # of a core, on average; the rest is for what comes at once
POD_CPUS: Final = 4
INGRESS_CPUS: Final = 0.5  # the chart's default for one replica
ONGOING: Final = 100  # requests of one ingress replica, the chart's default target
_STREAM_INTERVAL_S: Final = 0.02  # engine.stream_interval_ms


@dataclass(frozen=True, slots=True)
class Range:
    """Always there, and at most."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Stages:
    """Replicas of the stages that run on CPUs, and their pods."""

    request_ms: float  # of one core, for the pictures of one request
    ingress: Range
    preprocess: Range
    pods: Range


def picture_ms(width: int, height: int) -> float:
    """A core's time for a JPEG of this size, from bytes to what the model sees."""
    pixels = width * height
    largest, longest = PICTURE_MS[-1]
    return longest * pixels / largest if pixels > largest else interpolated(PICTURE_MS, pixels)


def stages(
    requests_per_s: float, pictures: Sequence[tuple[int, int]], answer_s: float, answer_tokens: int, peak: float
) -> Stages:
    """Enough for the load; at most, for `peak` times as much."""
    request_ms = sum(picture_ms(width, height) for width, height in pictures)
    preparing = request_ms / 1e3 + REQUEST_CPU_S / 3  # cores, for each request a second
    events = min(answer_tokens, answer_s / _STREAM_INTERVAL_S)
    passing = REQUEST_CPU_S / 3 + events * EVENT_CPU_S / 2  # the other half is the engine's

    def ingress(load: float) -> int:
        return max(1, math.ceil(load * passing / (BUSY * INGRESS_CPUS)), math.ceil(load * answer_s / ONGOING))

    def preprocess(load: float) -> int:
        return max(1, math.ceil(load * preparing / BUSY))

    def pods(load: float) -> int:
        # In a rolling update one more of each starts before an old one goes; the chart wants room for it.
        return math.ceil(
            (math.ceil(1.25 * ingress(load)) * INGRESS_CPUS + math.ceil(1.25 * preprocess(load))) / POD_CPUS
        )

    loads = requests_per_s, peak * requests_per_s
    return Stages(request_ms, *(Range(count(loads[0]), count(loads[1])) for count in (ingress, preprocess, pods)))
