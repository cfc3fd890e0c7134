"""Pages of the KV cache: reference counts, and which pages a prompt with the same beginning reuses.

Pure: page numbers and keys only, no tensors. A page that holds 64 tokens of a prompt keeps its key after the
last sequence that used it has ended, until its memory is needed; a new prompt with the same key uses it unchanged.
Keys are chains of hashes: equal keys mean equal tokens and pictures from the first token on, of one tenant.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence as SequenceOf
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Prompt

PAGE_TOKENS = 64


class PagePool:
    """Pages 1 to `pages` - 1; page 0 is where idle rows write."""

    def __init__(self, pages: int) -> None:
        self.pages = pages - 1
        self._free = deque(range(1, pages))
        self._ref_counts = [0] * pages
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # known by a key, without references; the oldest first

    @property
    def used(self) -> int:
        """Pages that sequences use."""
        return self.pages - len(self._free) - len(self._idle)

    def reserve(self, keys: SequenceOf[bytes], count: int) -> tuple[list[int], int] | None:
        """`count` pages, and how many of them hold the first of `keys` already; None while there are too few."""
        known: list[int] = []
        for key in keys:
            if (page := self._page_of.get(key)) is None:
                break
            known.append(page)
        idle = sum(self._ref_counts[page] == 0 for page in known)
        if count - len(known) > len(self._free) + len(self._idle) - idle:
            return None
        for page in known:
            self._idle.pop(page, None)
            self._ref_counts[page] += 1
        return known + [self._take() for _ in range(count - len(known))], len(known)

    def __contains__(self, key: bytes) -> bool:
        """Whether a page has this key (from any thread)."""
        return key in self._page_of

    def publish(self, page: int, key: bytes) -> None:
        """Register the key of a page in use so that `reserve` finds it; of equal pages only the first is registered."""
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key], self._key_of[page] = page, key

    def forget(self, pages: list[int]) -> list[int]:
        """Remove the keys of pages with one reference, so that no prompt reuses them; return those pages."""
        own = [page for page in pages if self._ref_counts[page] == 1]
        for page in own:
            if (key := self._key_of.pop(page, None)) is not None:
                del self._page_of[key]
        return own

    def release(self, pages: list[int]) -> None:
        """End one use of each page."""
        for page in reversed(pages):  # so that the end of a prefix is evicted before its beginning
            self._ref_counts[page] -= 1
            if self._ref_counts[page]:
                continue
            if page in self._key_of:
                self._idle[page] = None
            else:
                self._free.append(page)

    def _take(self) -> int:
        if self._free:
            page = self._free.popleft()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        self._ref_counts[page] = 1
        return page


def pages_for(tokens: int) -> int:
    """The number of pages that hold this many tokens."""
    return -(-tokens // PAGE_TOKENS)


def image_starts(prompt: Prompt, image_mask: NDArray[np.bool_]) -> list[int]:
    """Index of each picture's first placeholder; every picture has as many as tokens."""
    indices = np.flatnonzero(image_mask)
    firsts = np.cumsum([0, *(picture.tokens for picture in prompt.pictures)])[:-1]
    return [int(indices[first]) for first in firsts]


def prompt_keys(prompt: Prompt, image_mask: NDArray[np.bool_]) -> list[bytes]:
    """The key of each page that the prompt fills; a picture counts from the page of its first token on."""
    starts = image_starts(prompt, image_mask)
    key, keys, seen = blake2b(prompt.tenant.encode(), digest_size=16).digest(), [], 0
    for page in range(len(prompt.token_ids) // PAGE_TOKENS):
        stop = (page + 1) * PAGE_TOKENS
        shown = b""
        while seen < len(starts) and starts[seen] < stop:
            picture = prompt.pictures[seen]
            shown += f"{picture.digest}/{picture.pixels.shape};".encode()
            seen += 1
        tokens = prompt.token_ids[stop - PAGE_TOKENS : stop].astype(np.int32).tobytes()
        key = blake2b(key + tokens + shown, digest_size=16).digest()
        keys.append(key)
    return keys
