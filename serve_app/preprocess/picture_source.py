"""The file bytes of a request's pictures: uploads, `data:` URLs, bare base64 and addresses on the web."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from serve_app.contracts import ImagePart
from serve_app.preprocess.data_url import decode_bare_base64, decode_data_url, is_bare_base64
from serve_app.preprocess.fetch import Fetcher
from serve_app.preprocess.memory_budget import Reservation
from serve_app.preprocess.picture_limits import ImageLabel, label_of

_AT_ONCE: Final = 100_000  # characters of base64; shorter texts are decoded faster than a thread starts the work


class PictureSources:
    """Opens the sources of pictures; base64 never waits behind fetches."""

    def __init__(self, fetcher: Fetcher, max_bytes: int) -> None:
        self._fetcher = fetcher
        self._max_bytes = max_bytes
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="base64")

    async def read_all(self, pictures: Sequence[ImagePart], held: Reservation) -> list[bytes]:
        """The files of a request's pictures, opened together, their bytes added to `held`.

        Raises ImageRejected for the first that fails, Overloaded if the service holds too many bytes.
        """
        tasks = [asyncio.ensure_future(self._open(part, label_of(part, n), held)) for n, part in enumerate(pictures)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # one refused picture refuses the request: the others are not needed
                task.cancel()

    async def close(self) -> None:
        await self._fetcher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _open(self, part: ImagePart, label: ImageLabel, held: Reservation) -> bytes:
        source = part.source
        if isinstance(source, bytes):
            held.add(len(source))
            return source
        source = source.strip()
        scheme = source[:8].lower()
        if scheme.startswith(("http:", "https:")):
            return await self._fetcher.fetch(source, label, held)
        if not scheme.startswith("data:") and not is_bare_base64(source):
            raise label.rejected("must be a data: URL, an http(s) address or the base64 of a picture or PDF")
        decode = decode_data_url if scheme.startswith("data:") else decode_bare_base64
        held.add(len(source) * 3 // 4)
        if len(source) <= _AT_ONCE:
            return decode(source, label, self._max_bytes)
        return await asyncio.get_running_loop().run_in_executor(self._threads, decode, source, label, self._max_bytes)
