"""Answers whose prompt came through Ray's object store, until somebody reads their events.

For prompts of megabytes the object store is faster than a message. It can't return events, so the same prompt is sent
again in a message, without pixels:
docs/decisions/0003-prompt-transport.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Generic, TypeVar

import numpy as np

from serve_app.contracts import Prompt

KEPT_S: Final = 3.0  # the second call follows at once, unless its request has ended or it went to another replica

Reader = TypeVar("Reader")


class UnreadAnswers(Generic[Reader]):
    """Readers of the events of answers that have begun and that nobody reads yet; used in one event loop."""

    def __init__(self, cancel: Callable[[str], None], kept_s: float = KEPT_S) -> None:
        """`cancel` ends the request with this id, which nobody has asked for in time."""
        self._cancel = cancel
        self._kept_s = kept_s
        self._readers: dict[tuple[str, str], Reader] = {}  # by tenant and id

    def __len__(self) -> int:
        return len(self._readers)

    def add(self, prompt: Prompt, reader: Reader) -> None:
        key = prompt.tenant, prompt.id
        self._readers[key] = reader
        asyncio.get_running_loop().call_later(self._kept_s, self._drop, key, reader)

    def take(self, prompt: Prompt) -> Reader | None:
        """The reader of this prompt's events; None if its answer has not begun."""
        return self._readers.pop((prompt.tenant, prompt.id), None)

    def _drop(self, key: tuple[str, str], reader: Reader) -> None:
        if self._readers.get(key) is reader:
            del self._readers[key]
            self._cancel(key[1])


def copied(prompt: Prompt) -> Prompt:
    """The prompt with its pixels copied out of Ray's object store, whose size is limited."""
    pictures = (replace(one, pixels=np.array(one.sent_pixels())) if one.is_sent else one for one in prompt.pictures)
    return replace(prompt, pictures=tuple(pictures))
