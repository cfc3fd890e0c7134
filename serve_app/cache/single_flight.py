"""Single flight: one generation of an answer, read by every identical request that arrives meanwhile.

It runs in a task of its own, so it does not end with the request that started it, but with its last reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from serve_app.contracts import Event, Events, Finished
from serve_app.errors import EngineFailed


class Flight:
    """The events of one generation so far, for any number of readers.

    `completed` is awaited with all events of a complete answer; `ended` is called when nobody should join any more.
    """

    def __init__(
        self,
        events: Events,
        completed: Callable[[list[Event]], Awaitable[None]],
        ended: Callable[[], None],
    ) -> None:
        self._events: list[Event] = []
        self._complete = False
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._readers = 0
        self._completed = completed
        self._ended = ended
        self._task = asyncio.create_task(self._run(events))

    async def read(self) -> AsyncGenerator[Event, None]:
        """All events from the first; raises what the generation raised."""
        self._readers += 1
        try:
            position = 0
            while True:
                news = self._news
                while position < len(self._events):
                    yield self._events[position]
                    position += 1
                if self._complete:
                    return
                if self._error is not None:
                    raise self._error
                if position == len(self._events) and news is self._news:
                    await news.wait()
        finally:
            self._readers -= 1
            if not self._readers and not self._complete and not self._task.done():
                self._ended()  # at once: a request that arrives now must not read what is being stopped
                self._task.cancel()
                await asyncio.wait([self._task])

    async def _run(self, events: Events) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._events.append(event)
                    self._complete = isinstance(event, Finished)
                    self._notify()
            if not self._complete:
                raise EngineFailed("The engine ended this answer without its final event.")
            await self._completed(self._events)
        except asyncio.CancelledError:
            self._error = EngineFailed("The replica that worked on this answer was stopped.")
        except Exception as error:
            self._error = error
        finally:
            self._ended()
            self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
