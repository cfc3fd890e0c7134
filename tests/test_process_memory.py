"""When memory is returned to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_app.process_memory import MemoryWatch

MIB = 2**20

ALLOCATE_AND_FREE = """
from serve_app.process_memory import MemoryWatch, _private_and_free, return_memory

return_memory()
watch = MemoryWatch()
before, _ = _private_and_free()
kept = []
for number in range(200_000):  # 100 MB in blocks that Python gets from malloc; some are never freed
    block = bytes(1000)
    kept.append(block if number % 2 or number > 199_900 else None)
    del block
kept = kept[-3:]
assert watch.look()
after, _ = _private_and_free()
assert after - before < 20 * 2**20, (before, after)
assert not watch.look(), "nothing has changed"
"""


def test_memory_is_collected_once_after_it_was_used_or_freed() -> None:
    measured = iter([(100 * MIB, 0), (104 * MIB, 0), (150 * MIB, 0), (140 * MIB, 1 * MIB), (140 * MIB, 30 * MIB)] * 2)
    watch = MemoryWatch(lambda: next(measured))
    assert not watch.look()  # 104
    assert watch.look()  # 150, and 140 remain in use
    assert watch.look()  # 30 MiB of them were freed


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and calls glibc")
def test_small_blocks_that_were_freed_are_returned() -> None:
    subprocess.run([sys.executable, "-c", ALLOCATE_AND_FREE], check=True, env={"MALLOC_ARENA_MAX": "1"}, timeout=60)
