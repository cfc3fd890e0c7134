"""The queue of questions: a number of them runs at once, the others wait in order and know their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from serve_app.errors import Overloaded

MAX_WAIT_S: Final = 600.0  # less than streams and files are kept

ShowPlace: TypeAlias = Callable[[int], None]  # the number of questions before this one


@dataclass(slots=True, eq=False)
class _Waiting:
    turn: asyncio.Future[None]
    show_place: ShowPlace


class AnswerQueue:
    """First come, first served."""

    def __init__(self, max_running: int, max_waiting: int, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self.running = 0
        self._waiting: list[_Waiting] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def check(self) -> None:
        """Raises Overloaded if a question would be refused now."""
        if self.running >= self._max_running and len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{len(self._waiting)} questions of the bots are waiting, the limit.")

    @asynccontextmanager
    async def place(self, show_place: ShowPlace) -> AsyncIterator[None]:
        """A context in which a question runs. Calls `show_place` while it waits; raises Overloaded if too many wait."""
        if self.running >= self._max_running:
            await self._wait(show_place)
        else:
            self.running += 1
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, show_place: ShowPlace) -> None:
        self.check()
        entry = _Waiting(asyncio.get_running_loop().create_future(), show_place)
        self._waiting.append(entry)
        show_place(len(self._waiting))
        try:
            async with asyncio.timeout(self._max_wait_s):
                await entry.turn  # the place of the one that left is ours then
        except (asyncio.CancelledError, TimeoutError) as error:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self._leave()
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"A question of the bots waited for {self._max_wait_s:g} seconds, the limit."
                ) from error
            raise

    def _leave(self) -> None:
        """Gives the place to the first that waits."""
        while self._waiting:
            entry = self._waiting.pop(0)
            if not entry.turn.done():
                entry.turn.set_result(None)
                for number, other in enumerate(self._waiting, 1):
                    other.show_place(number)
                return
        self.running -= 1
