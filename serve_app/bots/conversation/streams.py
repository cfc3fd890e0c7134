"""Streams: the growing answers to messages, found by their id or by the message; kept in the state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from serve_app.bots.conversation.message import Inbound, join_key
from serve_app.bots.conversation.state import State

KEPT_S: Final = 900.0  # a stream and the id of its message, after its last change
SAVE_INTERVAL_S: Final = 1.0


@dataclass(slots=True, eq=False)
class Stream:
    """One answer. `text` grows; while it is empty, `status` is what the user sees."""

    id: str
    message: Inbound
    started_at: float  # seconds since 1970
    status: str = ""
    text: str = ""
    finished: bool = False
    is_answer: bool = False  # of the model, not a text of the bot
    digests: tuple[str, ...] = ()  # of its files, once they were downloaded
    shown: int | None = None  # characters of the text that were shown before the rest was sent separately
    posted: str = ""  # the adapter's note, such as the platform's id of the message that it updates
    delivered: bool = False  # nothing is left to send
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def content(self) -> str:
        return self.text or self.status

    def notify(self) -> None:
        """Wakes everyone who waits for a change."""
        event, self.changed = self.changed, asyncio.Event()
        event.set()

    async def wait_finished(self, timeout_s: float | None = None) -> bool:
        """Whether it finished within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.finished:
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True

    def as_json(self) -> bytes:
        names = (
            *("id", "started_at", "status", "text", "finished"),
            *("is_answer", "digests", "shown", "posted", "delivered"),
        )
        return orjson.dumps({**{name: getattr(self, name) for name in names}, "message": self.message.as_json()})

    @classmethod
    def from_json(cls, data: bytes) -> Stream:
        fields: dict[str, Any] = orjson.loads(data)
        message = Inbound.from_json(fields.pop("message"))
        return cls(message=message, digests=tuple(fields.pop("digests")), **fields)


class Streams:
    """All streams of this process, with those that an earlier process left in the state."""

    def __init__(
        self, state: State, now: Callable[[], float], new_id: Callable[[], str], kept_s: float = KEPT_S
    ) -> None:
        self._kept_s = kept_s
        self._state = state
        self._now = now
        self._new_id = new_id
        self._streams: dict[str, Stream] = {}
        self._received: dict[str, asyncio.Task[tuple[Stream, bool]]] = {}
        self._in_progress: set[str] = set()  # ids of streams that this process finishes and delivers
        self._saved_at: dict[str, float] = {}

    async def of_message(self, message: Inbound, begin: Callable[[Stream], Awaitable[None]]) -> tuple[Stream, bool]:
        """The stream of a message, and whether it is new. A repeated delivery gets the same stream.

        `begin` gets a new stream, and runs to its end even if this call is cancelled.
        """
        key = join_key("message", message.platform, message.bot, message.user, message.id)
        task = self._received.get(key)
        if task is not None:
            stream, _ = await asyncio.shield(task)
            return stream, False
        task = self._received[key] = asyncio.create_task(self._receive(key, message, begin))
        task.add_done_callback(lambda task: self._forget_later(key, task))
        return await asyncio.shield(task)

    async def find(self, id: str) -> Stream | None:
        if (stream := self._streams.get(id)) is not None:
            return stream
        data = await self._state.get(f"stream:{id}")
        if data is None:
            return None
        stream = Stream.from_json(data)
        if stream.delivered:  # it does not change any more, and nothing here would remove it
            return stream
        return self._streams.setdefault(id, stream)

    async def save(self, stream: Stream) -> None:
        await self._state.set(f"stream:{stream.id}", stream.as_json(), self._kept_s)
        self._saved_at[stream.id] = self._now()

    async def save_sometimes(self, stream: Stream) -> None:
        """Saves a stream that grows, at most once in `SAVE_INTERVAL_S`."""
        if self._now() - self._saved_at.get(stream.id, 0.0) >= SAVE_INTERVAL_S:
            await self.save(stream)

    async def close(self, stream: Stream) -> None:
        """Nothing is left to send; the stream can still be read for a while."""
        stream.delivered = True
        await self.save(stream)
        await self._state.close(stream.id)
        self._in_progress.discard(stream.id)
        self._saved_at.pop(stream.id, None)
        asyncio.get_running_loop().call_later(self._kept_s, self._streams.pop, stream.id, None)

    async def unfinished(self) -> list[Stream]:
        """Streams that an earlier process did not finish or deliver. Raises StateUnavailable."""
        found = []
        for id in await self._state.unfinished():
            if id in self._in_progress:
                continue
            stream = await self.find(id)
            if stream is None or stream.delivered:
                await self._state.close(id)
            else:
                self._in_progress.add(id)
                found.append(stream)
        return found

    def before(self, stream: Stream) -> int:
        """The number of unanswered questions that the same user sent before this one."""
        number = 0
        for other in self._streams.values():
            if other is stream:
                break
            number += not other.finished and _user(other) == _user(stream)
        return number

    async def _receive(
        self, key: str, message: Inbound, begin: Callable[[Stream], Awaitable[None]]
    ) -> tuple[Stream, bool]:
        stream = Stream(self._new_id(), message, self._now())
        known = (await self._state.claim(key, stream.id.encode(), self._kept_s)).decode()
        if known != stream.id and (earlier := await self.find(known)) is not None:
            return earlier, False
        if known != stream.id:  # the process ended before the stream was saved
            await self._state.set(key, stream.id.encode(), self._kept_s)
        self._streams[stream.id] = stream
        self._in_progress.add(stream.id)
        try:
            await self.save(stream)
            await self._state.open(stream.id)
            await begin(stream)
        except BaseException:  # the next delivery of the message begins anew
            self._streams.pop(stream.id, None)
            self._in_progress.discard(stream.id)
            await self._state.delete(key)
            await self._state.close(stream.id)
            raise
        return stream, True

    def _forget_later(self, key: str, task: asyncio.Task[tuple[Stream, bool]]) -> None:
        """Removes a message whose task failed at once, so that its next delivery is not refused, others later."""
        failed = task.cancelled() or task.exception() is not None
        if failed:
            self._received.pop(key, None)
        else:
            asyncio.get_running_loop().call_later(self._kept_s, self._received.pop, key, None)


def _user(stream: Stream) -> tuple[str, str, str]:
    return stream.message.platform, stream.message.bot, stream.message.user
