"""What the processes of a service that a benchmark started are doing: CPU use by kind, counters of the metrics page."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import httpx
import psutil

KINDS: Final = {  # kind -> what the command line contains; the first that fits
    "ingress": "glm:ingress",
    "preprocess": "glm:preprocess",
    "engine": "glm:engine",
    "decoders": "decoder_worker",
    "grammar": "sandbox_process",
    "haproxy": "/haproxy ",
    "serve controller": "ServeController",
    "serve proxy": "ProxyActor",
    "raylet": "raylet/raylet",
    "control store": "gcs_server",
    "agents": "agent",
}
STAGES: Final = ("ingress", "preprocess", "engine", "haproxy")  # reported process by process


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds of each process of the service at one moment of the monotonic clock."""

    at: float
    seconds: dict[int, tuple[str, float]]  # process id -> kind, user and system seconds

    @classmethod
    def now(cls) -> CpuTimes:
        found: dict[int, tuple[str, float]] = {}
        for process in psutil.Process().children(recursive=True):
            try:
                times = process.cpu_times()
                found[process.pid] = (kind_of(process), times.user + times.system)
            except psutil.Error:  # it has just ended
                continue
        return cls(time.monotonic(), found)

    def cores_since(self, before: CpuTimes) -> dict[str, list[float]]:
        """CPU cores in use, by kind: of each process of a stage, the busiest first; of all other kinds the sum."""
        cores: defaultdict[str, list[float]] = defaultdict(list)
        for pid, (kind, seconds) in self.seconds.items():
            used = (seconds - before.seconds.get(pid, (kind, 0.0))[1]) / (self.at - before.at)
            cores[kind].append(used)
        return {
            kind: [round(each, 2) for each in (sorted(used, reverse=True) if kind in STAGES else [sum(used)])]
            for kind, used in sorted(cores.items())
        }


def kind_of(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    return next((kind for kind, part in KINDS.items() if part in command), "other")


def engines() -> list[psutil.Process]:
    """The running engine processes of the service that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if kind_of(process) == "engine" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def counters(metrics_url: str, *names: str) -> dict[str, float]:
    """The sums over all replicas; 0 for a counter that has not counted yet."""
    page = httpx.get(metrics_url, timeout=30, trust_env=False).text
    sums = dict.fromkeys(names, 0.0)
    for name, value in re.findall(r"^ray_(\w+)\{.*\} (\S+)$", page, re.MULTILINE):
        if name in sums:
            sums[name] += float(value)
    return sums


def replicas(metrics_url: str) -> set[str]:
    """The engine replicas that report their slots, which they do when they have loaded the model."""
    page = httpx.get(metrics_url, timeout=30, trust_env=False).text
    return set(re.findall(r'^ray_glm_slots\{.*replica="([^"]+)".*\}', page, re.MULTILINE))
