"""The one decoder pool that all tests of preprocess share: its start takes a second."""

import asyncio
import functools
import time

from serve_app.preprocess.decoder_pool import DecoderPool
from serve_app.preprocess.picture_limits import ImageLabel, PictureLimits
from serve_app.settings import PreprocessSettings

LABEL = ImageLabel(2, "messages[0].content[1]")
LIMITS = PictureLimits.of_settings(PreprocessSettings())


@functools.cache
def shared_decoders() -> DecoderPool:
    return DecoderPool(PreprocessSettings())


async def ids_when_all_run(pool: DecoderPool, decoders: int = PreprocessSettings().decoders) -> set[int]:
    """The process ids of a pool once it has all its decoders: tests before this one may have ended some."""
    deadline = time.monotonic() + 10
    while len(pool.process_ids) < decoders:
        assert time.monotonic() < deadline, f"{len(pool.process_ids)} of {decoders} decoders run after 10 s"
        await asyncio.sleep(0.01)
    return set(pool.process_ids)


def close_shared_decoders() -> None:
    if shared_decoders.cache_info().currsize:
        shared_decoders().close()
        shared_decoders.cache_clear()
