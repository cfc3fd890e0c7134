"""Downloads the files of messages within limits, and keeps them by their digests."""

from __future__ import annotations

import asyncio
from typing import Final

from serve_app.bots.conversation.adapter import Adapter, FetchFailed
from serve_app.bots.conversation.memory import Memory
from serve_app.bots.conversation.message import FileRef
from serve_app.bots.conversation.streams import Stream
from serve_app.settings_bots import BotSettings

MAX_AT_ONCE: Final = 8  # downloads of all chats; each holds up to bots.max_file_bytes


class Downloads:
    """The downloads of all bots."""

    def __init__(self, settings: BotSettings, memory: Memory) -> None:
        self._settings = settings
        self._memory = memory
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def fetch_all(self, stream: Stream, adapter: Adapter) -> tuple[str, ...]:
        """The digests of a message's files. A restarted process uses those that were kept. Raises FetchFailed."""
        kept = [await self._memory.file(digest) for digest in stream.digests]
        if stream.digests and all(kept):
            return stream.digests
        fetches = [asyncio.ensure_future(self._fetch(adapter, file)) for file in stream.message.all_files]
        try:
            return tuple(await asyncio.gather(*fetches))
        finally:
            for fetch in fetches:
                fetch.cancel()

    async def _fetch(self, adapter: Adapter, file: FileRef) -> str:
        async with self._places:
            try:
                async with asyncio.timeout(self._settings.fetch_timeout_s):
                    data = await adapter.fetch(file)
            except TimeoutError as error:
                raise FetchFailed(
                    "not_downloaded", f"It took longer than {self._settings.fetch_timeout_s:g} seconds."
                ) from error
            if len(data) > self._settings.max_file_bytes:
                raise FetchFailed("too_large", f"It has {len(data)} bytes.")
            return await self._memory.keep_file(data)
