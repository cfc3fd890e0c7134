"""Returns the memory of large requests to the system: glibc's allocator, Python's garbage collector.

Ray's processes keep freed blocks (`ray_flags.py`), because the model's thread allocates the same ones in each step. A
process that reads bodies or pictures must not: after some bodies of 60 MiB it would keep a gigabyte. An error that is
raised in a request also keeps the request's data alive, in cycles of exceptions and frames, until Python collects them.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

LARGE_BLOCK_BYTES: Final = 4 * 2**20
_M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3


def return_memory() -> None:
    """Makes this process return large blocks when they are freed, and others some seconds later.

    Call it once, when the process is set up: what exists now is left out of later collections, so that they take
    milliseconds.
    """
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 8 * LARGE_BLOCK_BYTES)
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        threading.Thread(target=MemoryWatch().run, name="memory", daemon=True).start()


def collect() -> None:
    """Frees what only cycles keep alive, and returns all free memory."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


class MemoryWatch:
    """Collects when memory has been allocated or freed since the last collection; costs nothing while neither is.

    Many small blocks add up too: the bodies of refused requests, or the prompts of a full queue.
    """

    INTERVAL_S: Final = 5.0
    CHANGED_BYTES: Final = 8 * 2**20

    def __init__(self, measure: Callable[[], tuple[int, int]] | None = None) -> None:
        self._measure = measure or _private_and_free
        self._resident, self._free = self._measure()
        self._again = False  # what the last collection could not free may be garbage by now

    def run(self) -> None:
        while True:
            threading.Event().wait(self.INTERVAL_S)
            self.look()

    def look(self) -> bool:
        """Whether it was time to collect: after a change, and once more after that."""
        resident, free = self._measure()
        changed = resident > self._resident + self.CHANGED_BYTES or free > self._free + self.CHANGED_BYTES
        due, self._again = changed or self._again, changed
        if due:
            collect()
            self._resident, self._free = self._measure()
        return due


class Collector:
    """Collects a moment after much data was released, without waiting for `MemoryWatch`."""

    COLLECT_BYTES: Final = 64 * 2**20
    COLLECT_AFTER_S: Final = 1.0  # what is released in one moment is collected together

    def __init__(self) -> None:
        self._released = 0  # bytes since the last collection
        self._timer: asyncio.TimerHandle | None = None

    def released(self, size: int) -> None:
        """Call it on the event loop when a request no longer needs `size` bytes."""
        self._released += size
        if self._released >= self.COLLECT_BYTES and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.COLLECT_AFTER_S, self._collect)

    def _collect(self) -> None:
        self._timer, self._released = None, 0
        collect()


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(8)] + [
        ("fordblks", ctypes.c_size_t),  # free bytes in all arenas
        ("keepcost", ctypes.c_size_t),
    ]


def private_bytes() -> int:
    """Bytes of memory of this process that it does not share (Linux)."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * resource.getpagesize()


def _private_and_free() -> tuple[int, int]:
    """Bytes of private memory of this process, and bytes of free blocks that the allocator holds (Linux)."""
    libc = ctypes.CDLL(None)
    free = 0
    if hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = _MallocInfo
        free = libc.mallinfo2().fordblks
    return private_bytes(), free
