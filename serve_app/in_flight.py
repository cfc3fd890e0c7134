"""Counts the requests in progress in each process of a pod, in files that `glm-serve drain` reads.

Ray's control store does not know them, and a pod may have to stop without one: the head of a cluster that is deleted
goes first. A process overwrites 16 bytes of its own file at the begin and the end of each request.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

FOLDER: Final = Path("/tmp/glm-serve-in-flight")  # each pod has its own /tmp
_RECORD: Final = struct.Struct("<qd")  # requests in progress, time of the last change


@dataclass(frozen=True, slots=True)
class Activity:
    """What the processes of a pod work on."""

    requests: int
    changed: float | None  # time.monotonic() of the last begin or end of a request; None: there was none


def folder_of_pod(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of these files in a worker's container of KubeRay, None elsewhere: nothing is counted there."""
    return FOLDER if "FQ_RAY_IP" in environment else None


class InFlight:
    """The number of requests in progress in this process: `with in_flight: …` around each. For one event loop."""

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests = 0
        self._file = -1
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def __enter__(self) -> None:
        self._requests += 1
        self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests -= 1
        self._write()

    def _write(self) -> None:
        if self._file >= 0:
            os.pwrite(self._file, _RECORD.pack(self._requests, self._clock()), 0)


def read_activity(folder: Path, processes: Path = Path("/proc")) -> Activity:
    """What the living processes have written to the folder; nothing if it does not exist."""
    requests, changes = 0, []
    for file in folder.glob("*") if folder.is_dir() else ():
        content = file.read_bytes()
        if len(content) == _RECORD.size:
            in_progress, changed = _RECORD.unpack(content)
            changes.append(changed)
            if (processes / file.name).exists():  # a process that was killed has left its last number
                requests += in_progress
    return Activity(requests, max(changes, default=None))
