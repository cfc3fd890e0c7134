"""The store in memory: time to live, bound of bytes, order of removal."""

from __future__ import annotations

from serve_app.cache.store import MemoryStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_value_is_returned_until_its_time_is_over():
    clock = Clock()
    store = MemoryStore(10_000, clock)
    await store.set("a", b"1", 10.0)
    clock.now = 9.9
    assert await store.get("a") == b"1"
    clock.now = 10.0
    assert await store.get("a") is None
    assert store.bytes == 0


async def test_the_value_that_was_not_used_for_the_longest_time_is_removed_first():
    store = MemoryStore(3 * 1300)
    for key in "abc":
        await store.set(key, b"x" * 1000, 10.0)
    await store.get("a")
    await store.set("d", b"x" * 1000, 10.0)
    assert [await store.get(key) is not None for key in "abcd"] == [True, False, True, True]


async def test_the_bytes_stay_within_the_bound_and_are_counted_exactly():
    store = MemoryStore(10_000)
    for number in range(200):
        await store.set(f"key {number % 37}", b"x" * (number * 13 % 900), 10.0)
        assert store.bytes <= 10_000
    await store.close()
    assert store.bytes == 0


async def test_a_value_larger_than_the_store_is_not_kept():
    store = MemoryStore(1000)
    await store.set("a", b"x" * 2000, 10.0)
    assert await store.get("a") is None
    assert store.bytes == 0
