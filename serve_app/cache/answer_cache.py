"""The answer cache, between prepare and generate: a kept answer, one in progress, or a new one.

A store that is down, slow or damaged is a miss and counted; it never fails a request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from serve_app.cache.feedback import AnswerIndex, CandidateFile, Feedback
from serve_app.cache.key import answer_key, is_deterministic, request_digest
from serve_app.cache.single_flight import Flight
from serve_app.cache.store import MemoryStore, Store, StoreUnavailable
from serve_app.cache.stored_answer import Codec, StoredAnswer, as_hit
from serve_app.contracts import ChatRequest, Delta, Event, Events, Prompt, Started
from serve_app.errors import ServiceError
from serve_app.fingerprint import system_fingerprint
from serve_app.metrics import ANSWER_CACHE_BYTES, ANSWER_CACHE_LOOKUP_SECONDS, ANSWER_CACHE_LOOKUPS, Meter
from serve_app.request_size import text_characters, upload_bytes
from serve_app.settings import Settings
from serve_app.settings_cache import CacheSettings

BLOCKED_S: Final = 86400.0  # how long an answer that was called wrong is not kept again
MIN_KEY_BYTES: Final = 16  # of a signing key
_KNOWN_REQUESTS: Final = 20_000  # digests of requests, each with the key of its answer: about 5 MB
_BYTES_IN_LOOP: Final = 2 * 2**20  # larger requests are digested in a thread; 1 MB takes 0.6 to 1 ms
_ANSWER_IN_LOOP: Final = 2**16  # larger answers are encoded in a thread
_EVENT_SIZE: Final = 100  # of an encoded event without its text, about

_log = logging.getLogger("glm.cache")

Prepare = Callable[[], Awaitable[Prompt]]
Generate = Callable[[Prompt], Events]


class AnswerCache:
    """Answers requests from kept answers, and keeps new ones."""

    def __init__(
        self,
        settings: CacheSettings,
        model: str,  # identifies the served model, its revision, weight format and code
        meter: Meter,
        store: Store | None = None,
        codec: Codec | None = None,
    ) -> None:
        self._settings = settings
        self._model = model
        self._meter = meter
        self._store: Store = store or MemoryStore(settings.memory_mib * 2**20)
        self._codec = codec or Codec()
        keep_questions = bool(settings.candidates_file)
        self._index = AnswerIndex(self._store, self._codec, settings.ttl_s, keep_questions=keep_questions)
        self._candidates = CandidateFile(settings.candidates_file) if keep_questions else None
        self._indexing: set[asyncio.Task[None]] = set()
        self._flights: dict[str, Flight] = {}
        self._known: OrderedDict[str, str] = OrderedDict()  # digest of a request -> key of its answer

    def applies_to(self, request: ChatRequest) -> bool:
        """Whether the answer may be kept. Several sampled choices of one request are meant to differ."""
        if request.cache == "off":
            return False
        return is_deterministic(request.sampling) or (self._settings.answers == "all" and not request.group)

    async def answer(self, request: ChatRequest, prepare: Prepare, generate: Generate) -> AsyncGenerator[Event, None]:
        """The events of the answer. `prepare` is not called if the same request was seen and its answer is there."""
        digest = None if request.group else await self._digest(request)
        key = self._known.get(digest) if digest else None
        prompt = None if key else await prepare()
        began = time.perf_counter()
        if prompt is not None:
            key = self._key(digest, prompt)
        assert key is not None
        self._remember_id(request, key)
        stages_ms = prompt.stages_ms if prompt else {}
        events = await self._found(key, request, stages_ms, began)
        if events is None and prompt is None:
            prompt = await prepare()
            events = self._joined(key, prompt.stages_ms, began)
        if events is not None:
            started = False
            try:
                async with aclosing(events):
                    async for event in events:
                        started = True
                        yield event
                return
            except ServiceError as error:
                if started or error.status < 500:
                    raise  # else the other request failed, by its deadline or a lost replica
            if (events := self._joined(key, stages_ms, began)) is not None:  # another of its readers begins anew
                async with aclosing(events):
                    async for event in events:
                        yield event
                return
        flight = self._flight(key, generate(prompt) if prompt else _prepared(prepare, generate))
        del prompt  # its pixels are freed when the model has read them
        async with aclosing(flight.read()) as generated:
            async for event in generated:
                yield _as_miss(event)

    async def rate(self, feedback: Feedback) -> int:
        """Removes and blocks the answers that a caller calls wrong; returns how many were there."""
        if feedback.rating == "up":
            return 0
        found = await self._index.find(feedback.answer_id, feedback.tenant)
        answers: list[str] = []
        is_new = False
        for key in dict.fromkeys(each.key for each in found):
            result, stored = await self._load(key)
            is_new = is_new or result != "blocked"
            if stored is not None:
                answers.append("".join(each.text for each in stored.events if isinstance(each, Delta)))
            with suppress(StoreUnavailable):
                await self._store.set(key, self._codec.blocked(key), BLOCKED_S)
        if self._candidates is not None and is_new:
            try:
                await self._candidates.add(feedback, [each.question for each in found], answers)
            except OSError as error:
                _log.error("A candidate for tests can't be written: %s.", error)
        return len(answers)

    def _remember_id(self, request: ChatRequest, key: str) -> None:
        """Remembers which answer the response has, without delaying it."""
        task = asyncio.create_task(self._index.add(request, key))
        self._indexing.add(task)
        task.add_done_callback(self._indexing.discard)

    async def close(self) -> None:
        await self._store.close()

    async def _digest(self, request: ChatRequest) -> str | None:
        if upload_bytes(request) + text_characters(request) > _BYTES_IN_LOOP:
            return await asyncio.to_thread(request_digest, request)
        return request_digest(request)

    def _key(self, digest: str | None, prompt: Prompt) -> str:
        """The key of the prompt's answer, remembered for the request's digest."""
        key = answer_key(prompt, self._model)
        if digest is not None:
            self._known[digest] = key
            self._known.move_to_end(digest)
            if len(self._known) > _KNOWN_REQUESTS:
                self._known.popitem(last=False)
        return key

    async def _found(self, key: str, request: ChatRequest, stages_ms: dict[str, float], began: float) -> Events | None:
        """The events of an answer in progress, or of a kept one."""
        if request.cache == "refresh":
            self._meter.count(ANSWER_CACHE_LOOKUPS, result="refresh")
            return None
        if (joined := self._joined(key, stages_ms, began)) is not None:
            return joined
        result, stored = await self._load(key)
        spent_s = time.perf_counter() - began
        self._meter.observe(ANSWER_CACHE_LOOKUP_SECONDS, spent_s)
        if stored is None and (joined := self._joined(key, stages_ms, began)) is not None:
            return joined
        self._meter.count(ANSWER_CACHE_LOOKUPS, result=result)
        return None if stored is None else _replay(stored, {**stages_ms, "cache": spent_s * 1000})

    def _joined(self, key: str, stages_ms: dict[str, float], began: float) -> Events | None:
        flight = self._flights.get(key)
        if flight is None:
            return None
        self._meter.count(ANSWER_CACHE_LOOKUPS, result="joined")
        return _join(flight, stages_ms, began)

    async def _load(self, key: str) -> tuple[str, StoredAnswer | None]:
        """The result of the lookup, for the metric, and the answer."""
        try:
            data = await self._store.get(key)
            if data is None:
                return "miss", None
            stored = self._codec.decode(key, data)
            return ("blocked" if stored is None else "hit"), stored
        except StoreUnavailable:
            return "unavailable", None
        except (ValueError, TypeError, KeyError):
            _log.debug("A kept answer is damaged or forged, so it is ignored.")
            return "invalid", None

    def _flight(self, key: str, events: Events) -> Flight:
        """A new generation, which identical requests join from now on."""

        async def keep(complete: list[Event]) -> None:
            await self._keep(key, complete)

        def end() -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        flight = Flight(events, keep, end)
        self._flights[key] = flight
        return flight

    async def _keep(self, key: str, events: list[Event]) -> None:
        size = sum(len(event.text) + _EVENT_SIZE if isinstance(event, Delta) else _EVENT_SIZE for event in events)
        if size > _ANSWER_IN_LOOP:
            data = await asyncio.to_thread(self._codec.encode, key, events)
        else:
            data = self._codec.encode(key, events)
        if len(data) > self._settings.max_answer_kib * 1024:
            return
        try:
            if await self._is_blocked(key):
                return
            await self._store.set(key, data, self._settings.ttl_s)
        except StoreUnavailable:
            self._meter.count(ANSWER_CACHE_LOOKUPS, result="not_kept")
        if isinstance(self._store, MemoryStore):
            self._meter.set(ANSWER_CACHE_BYTES, self._store.bytes)

    async def _is_blocked(self, key: str) -> bool:
        return (await self._load(key))[0] == "blocked"


def cache_of_settings(settings: CacheSettings, model: str, meter: Meter) -> AnswerCache:
    """The cache with the store and the key of the settings.

    Raises InvalidRequest, OSError and ValueError for files of secrets.
    """
    if settings.backend != "redis":
        return AnswerCache(settings, model, meter)
    from serve_app.cache.redis_store import RedisStore  # imported late: others need no client

    return AnswerCache(settings, model, meter, RedisStore(settings), Codec(_signing_key(settings.signing_key_file)))


def answer_cache(settings: Settings, meter: Meter) -> AnswerCache | None:
    """The answer cache of the settings; None if it is off."""
    if settings.cache.backend == "off":
        return None
    return cache_of_settings(settings.cache, system_fingerprint(settings.model), meter)


def _signing_key(file: str) -> bytes:
    """The secret in the file; raises ValueError if it is short."""
    key = Path(file).read_bytes().strip() if file else b""
    if file and len(key) < MIN_KEY_BYTES:
        raise ValueError(f"The file {file} has {len(key)} bytes; a signing key has {MIN_KEY_BYTES} or more.")
    return key


async def _prepared(prepare: Prepare, generate: Generate) -> AsyncGenerator[Event, None]:
    """The events of a generation that prepares first, so that others can join it at once."""
    async with aclosing(generate(await prepare())) as events:
        async for event in events:
            yield event


async def _replay(stored: StoredAnswer, stages_ms: dict[str, float]) -> AsyncGenerator[Event, None]:
    for event in stored.replayed(stages_ms):
        yield event


async def _join(flight: Flight, stages_ms: dict[str, float], began: float) -> AsyncGenerator[Event, None]:
    async with aclosing(flight.read()) as events:
        async for event in events:
            yield as_hit(event, {**stages_ms, "cache": (time.perf_counter() - began) * 1000})


def _as_miss(event: Event) -> Event:
    return replace(event, cache="miss") if isinstance(event, Started) else event
