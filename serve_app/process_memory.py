"""Returns the memory of large requests to the system: glibc's allocator, Python's garbage collector.

Ray's processes keep freed blocks (`ray_flags.py`), because the model's thread allocates the same ones in each step. A
process that reads bodies or pictures must not: after some bodies of 60 MiB it would keep a gigabyte. An error that is
raised in a request also keeps the request's data alive, in cycles of exceptions and frames, until Python collects them.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from typing import Final

LARGE_BLOCK_BYTES: Final = 4 * 2**20
_M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3


def return_large_blocks() -> None:
    """Makes this process return large blocks when they are freed; call it once, when the process is set up.

    What exists now is left out of later collections, so that they take milliseconds.
    """
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 8 * LARGE_BLOCK_BYTES)
    gc.collect()
    gc.freeze()


class Collector:
    """Frees what only cycles keep alive, and returns it, a moment after much data was released."""

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
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
