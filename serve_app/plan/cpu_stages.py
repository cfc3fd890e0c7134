"""Replicas and pods of the stages that run on CPUs: ingress and preprocess."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from serve_app.plan.measured import EVENT_CPU_S, INGRESS_CPU_S, PICTURE_MS, PREPROCESS_CPU_S

CPU_USE: Final = 0.7  # of a core, on average; the rest is for bursts
POD_CPUS: Final = 4
INGRESS_CPUS: Final = 0.5  # the chart's default for one replica


@dataclass(frozen=True, slots=True)
class Range:
    """Minimum and maximum number of replicas."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class CpuStages:
    """Replicas of the stages that run on CPUs, and their pods."""

    picture_ms: float  # of one core, for the pictures of one request
    ingress: Range
    preprocess: Range
    pods: Range


def picture_ms(width: int, height: int) -> float:
    """Time of one core for a JPEG of this size in pixels, from its bytes to the model's input."""
    sizes, times = zip(*PICTURE_MS, strict=True)
    pixels = width * height
    return float(np.interp(pixels, sizes, times)) * max(1.0, pixels / sizes[-1])


def cpu_stages(
    requests_per_s: float, peak_per_s: float, pictures: Sequence[tuple[int, int]], events: int, least: int = 1
) -> CpuStages:
    """Enough replicas for the load, and for its peak; `events` are the pieces of one streamed answer.

    At least `least` of each: with two, a lost pod stops nothing.
    """
    pictures_ms = sum(picture_ms(width, height) for width, height in pictures)
    preprocess_s = pictures_ms / 1e3 + PREPROCESS_CPU_S
    ingress_s = INGRESS_CPU_S + events * EVENT_CPU_S

    def counts(load: float) -> tuple[int, int, int]:
        ingress = max(least, math.ceil(load * ingress_s / (CPU_USE * INGRESS_CPUS)))
        preprocess = max(least, math.ceil(load * preprocess_s / CPU_USE))
        # A rolling update starts a quarter more replicas before the old ones stop.
        cpus = math.ceil(1.25 * ingress) * INGRESS_CPUS + math.ceil(1.25 * preprocess)
        return ingress, preprocess, max(least, math.ceil(cpus / POD_CPUS))

    return CpuStages(pictures_ms, *map(Range, counts(requests_per_s), counts(peak_per_s)))
