"""Reads the weights once in the background: the engine then finds them in the kernel's file cache."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

THREADS: Final = 4
_BLOCK_BYTES: Final = 16 * 2**20
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


def read_ahead(folder: Path, *, limit: Path = _CGROUP_LIMIT) -> list[threading.Thread]:
    """Start reading the weights in `folder`, while Ray starts and libraries are imported; returns the threads.

    The kernel keeps what is read as long as there is memory for it. Nothing is read where the weights take more than
    three quarters of what is available: the first files would be dropped before the engine reads them.
    """
    files = sorted(folder.glob("*.safetensors"))
    if sum(file.stat().st_size for file in files) > 0.75 * available_bytes(limit):
        return []
    threads = [threading.Thread(target=_read, args=(files[i::THREADS],), daemon=True) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    return threads


def available_bytes(limit: Path) -> int:
    """Memory that this process and the kernel's cache can take: of the machine, within the container's limit."""
    available: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or "max"
        available = min(available, int(limit.read_text()))
    return available


def _read(files: Sequence[Path]) -> None:
    buffer = bytearray(_BLOCK_BYTES)
    with suppress(OSError):  # the engine reads the same files, and says what is wrong
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass
