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
assert watch.look(), "once more"
assert not watch.look(), "nothing has changed"
"""


def test_memory_is_collected_after_it_was_used_or_freed_and_once_more() -> None:
    used = (100 * MIB, 0)
    watch = MemoryWatch(lambda: used)
    used = (104 * MIB, 0)
    assert not watch.look(), "a small change"
    used = (150 * MIB, 0)
    assert [watch.look(), watch.look(), watch.look()] == [True, True, False]
    used = (150 * MIB, 30 * MIB)  # freed, and kept by the allocator
    assert [watch.look(), watch.look(), watch.look()] == [True, True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and calls glibc")
def test_small_blocks_that_were_freed_are_returned() -> None:
    subprocess.run([sys.executable, "-c", ALLOCATE_AND_FREE], check=True, env={"MALLOC_ARENA_MAX": "1"}, timeout=60)
