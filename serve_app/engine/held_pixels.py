"""Pixels that came ahead of their prompt through Ray's object store, for megabytes faster than a message."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Prompt

HELD_S: Final = 10.0  # the prompt follows at once, unless its request has ended or it went to another replica


class HeldPixels:
    """Pixels of prompts by request, for a few seconds; used in one event loop."""

    def __init__(self, held_s: float = HELD_S) -> None:
        self._held_s = held_s
        self._requests: dict[tuple[str, str], dict[str, NDArray[np.uint8]]] = {}  # (tenant, id) -> digest -> pixels

    def __len__(self) -> int:
        """Requests whose prompt has not come yet."""
        return len(self._requests)

    def put(self, prompt: Prompt) -> None:
        """Keep a copy of the prompt's pixels: what it has itself is in the object store, which has a bound."""
        key = prompt.tenant, prompt.id
        sent = (picture for picture in prompt.pictures if picture.is_sent)
        self._requests[key] = {picture.digest: np.array(picture.sent_pixels()) for picture in sent}
        asyncio.get_running_loop().call_later(self._held_s, self._requests.pop, key, None)

    def take(self, prompt: Prompt) -> Prompt:
        """The prompt with the pixels that came ahead of it; the same object if there were none."""
        held = self._requests.pop((prompt.tenant, prompt.id), None)
        if held is None:
            return prompt
        pictures = (replace(one, pixels=held[one.digest]) if one.digest in held else one for one in prompt.pictures)
        return replace(prompt, pictures=tuple(pictures))
