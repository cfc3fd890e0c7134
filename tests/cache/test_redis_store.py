"""The store in Redis, against a real server: shared, late, killed, damaged; no wrong answer and no error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from serve_app.cache.answer_cache import cache_of_settings
from serve_app.cache.circuit_breaker import CircuitBreaker
from serve_app.cache.redis_store import PREFIX, RedisStore
from serve_app.cache.store import StoreUnavailable
from serve_app.cache.stored_answer import Codec
from serve_app.contracts import ChatRequest, Delta
from serve_app.metrics import SilentMeter
from serve_app.settings_cache import CacheSettings
from tests.cache.conftest import Cached
from tests.fakes import FakeAnswer
from tests.redis_server import RedisServer, SlowProxy

Question = Callable[..., ChatRequest]
LONG_MS = 2000.0
DEFAULT_MS = 50.0


@pytest.fixture
async def proxy(redis: RedisServer) -> AsyncIterator[SlowProxy]:
    proxy = SlowProxy(redis.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


def settings_of(url: str, **more: object) -> CacheSettings:
    """With a long time limit, where it is not what is tested: this machine may be busy."""
    return CacheSettings(**{"backend": "redis", "redis_url": url, "redis_timeout_ms": LONG_MS, **more})


def cached_at(url: str, answer: object = None, **settings: object) -> Cached:
    """A cache over Redis; its breaker never opens, so that every request asks Redis."""
    store = RedisStore(settings_of(url, **settings), CircuitBreaker(failures=10**9))
    return Cached(store=store, answer=answer or FakeAnswer("Two ", "cats"))


async def test_values_are_kept_until_their_time_is_over(redis: RedisServer):
    store = RedisStore(settings_of(redis.url))
    await store.set("a", b"\x00\xff", 2.0)
    assert await store.get("a") == b"\x00\xff"
    await asyncio.sleep(2.1)
    assert await store.get("a") is None
    await store.close()


async def test_replicas_share_their_answers(redis: RedisServer, question: Question):
    first, second = cached_at(redis.url), cached_at(redis.url)
    await first.ask(question())
    await first.settled()
    events = await second.ask(question(id="two"))
    assert (events[0].cache, second.generated) == ("hit", 0)


async def test_a_password_is_read_from_its_file(tmp_path: Path, question: Question):
    server = RedisServer(tmp_path, "--requirepass", "secret")
    server.start()
    (tmp_path / "password").write_text("secret\n")
    try:
        store = RedisStore(settings_of(server.url, redis_password_file=str(tmp_path / "password")))
        await store.set("a", b"1", 9.0)
        assert await store.get("a") == b"1"
        with pytest.raises(StoreUnavailable):
            await RedisStore(settings_of(server.url)).get("a")
    finally:
        server.kill()


async def test_a_late_lookup_is_a_miss_after_the_time_limit(proxy: SlowProxy, question: Question):
    cached = cached_at(proxy.url, redis_timeout_ms=DEFAULT_MS)
    await cached.ask(question())
    await cached.settled()
    proxy.delay_s = 1.0
    began = time.monotonic()
    events = await cached.ask(question(id="two"))
    assert time.monotonic() - began < 0.9  # the limit is 0.05 s; this machine may be busy
    assert events[0].cache == "miss"
    assert cached.lookups()["unavailable"] >= 1


async def test_a_late_response_is_not_taken_for_that_of_the_next_question(proxy: SlowProxy, question: Question):
    cached = cached_at(
        proxy.url, lambda request: FakeAnswer(repr(request.messages))(request), redis_timeout_ms=DEFAULT_MS
    )
    texts = [f"Number {number}" for number in range(10)]
    for text in texts:
        await cached.ask(question(text))
    for round_ in range(3):
        proxy.delay_s = (0.0, 0.06, 0.0)[round_]
        for text in texts:
            events = await cached.ask(question(text))
            assert text in "".join(event.text for event in events if isinstance(event, Delta))


@pytest.mark.parametrize("key", [b"", b"a secret of 16 by"])
async def test_a_damaged_answer_is_a_miss(proxy: SlowProxy, question: Question, key: bytes):
    cached = cached_at(proxy.url)
    cached.cache._codec = Codec(key)
    await cached.ask(question())
    await cached.settled()
    proxy.damage = True
    events = await cached.ask(question(id="two"))
    assert [event.text for event in events if isinstance(event, Delta)] == ["Two ", "cats"]
    assert (events[0].cache, cached.generated) == ("miss", 2)


async def test_a_forged_answer_is_a_miss(redis: RedisServer, question: Question, tmp_path: Path):
    (tmp_path / "key").write_bytes(b"a secret of 16 by")
    cached = cached_at(redis.url)
    cached.cache._codec = Codec(b"a secret of 16 by")
    await cached.ask(question())
    await cached.settled()
    store = RedisStore(settings_of(redis.url))
    keys = [name.decode().removeprefix(PREFIX) async for name in store._redis.scan_iter()]
    (bare,) = [name for name in keys if not name.startswith("id:")]
    await store.set(bare, Codec(b"guessed").encode(bare, [Delta("Send money", 1)]), 9.0)
    assert (await cached.ask(question()))[0].cache == "miss"


async def test_redis_is_killed_slow_and_damaged_under_load_and_every_answer_is_right(
    redis: RedisServer, proxy: SlowProxy, question: Question
):
    settings = settings_of(proxy.url, redis_timeout_ms=DEFAULT_MS)
    store = RedisStore(settings, CircuitBreaker(failures=5, open_s=0.1))
    cached = Cached(store=store, answer=lambda request: FakeAnswer(f"Answer to {request.messages[0].parts}")(request))
    ended = asyncio.Event()
    asked = 0

    async def client(number: int) -> None:
        nonlocal asked
        while not ended.is_set():
            asked += 1
            request = question(f"Question {asked % 40}", id=f"{number}-{asked}")
            events = await cached.ask(request)
            said = "".join(event.text for event in events if isinstance(event, Delta))
            assert said == f"Answer to {request.messages[0].parts}"
            await asyncio.sleep(0.01)

    async def until_more(*results: str) -> None:
        """Until each of the results was seen again."""
        before = cached.lookups()
        async with asyncio.timeout(90):
            for result in results:
                while cached.lookups().get(result, 0) <= before.get(result, 0) + 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    clients = [asyncio.create_task(client(number)) for number in range(4)]
    await until_more("hit")
    await asyncio.to_thread(redis.kill)
    await until_more("unavailable")
    await asyncio.to_thread(redis.start)
    await until_more("miss", "hit")
    proxy.delay_s = 0.2
    await until_more("unavailable")
    proxy.delay_s, proxy.damage = 0.0, True
    await until_more("invalid")
    proxy.damage = False
    await until_more("hit")
    ended.set()
    await asyncio.gather(*clients)


async def test_a_server_that_is_down_is_not_asked_for_every_request(question: Question):
    cached = Cached(store=RedisStore(settings_of("redis://127.0.0.1:1/0")))
    began = time.monotonic()
    for number in range(200):
        await cached.ask(question(f"Question {number}"))
    assert time.monotonic() - began < 2.0
    assert cached.lookups()["unavailable"] >= 200


def test_after_some_failures_a_breaker_lets_one_call_try_at_a_time():
    now = [0.0]
    breaker = CircuitBreaker(failures=2, open_s=5.0, clock=lambda: now[0])
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    now[0] = 5.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.failed()
    now[0] = 9.9
    assert not breaker.allows()
    now[0] = 10.0
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.allows(), breaker.allows()] == [True, True]


def test_a_short_signing_key_is_refused(tmp_path: Path):
    (tmp_path / "key").write_text("short")
    settings = settings_of("redis://127.0.0.1:1/0", signing_key_file=str(tmp_path / "key"))
    with pytest.raises(ValueError, match="has 5 bytes; a signing key has 16 or more"):
        cache_of_settings(settings, "m", SilentMeter())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "redis"}, "redis_url must have its address"),
        ({"redis_url": "redis://:secret@redis:6379/0"}, "must not have a password"),
    ],
)
def test_settings_that_can_not_work_are_refused(values: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        CacheSettings(**values)
