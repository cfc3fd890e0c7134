"""Milliseconds of the stages of a request, added up while it is prepared."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(stages_ms: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time of the block to a stage."""
    began = time.perf_counter()
    try:
        yield
    finally:
        stages_ms[stage] += (time.perf_counter() - began) * 1000
