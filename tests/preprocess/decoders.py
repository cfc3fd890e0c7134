"""The one decoder pool that all tests of preprocess share: its start takes a second."""

import functools

from serve_app.preprocess.decoder_pool import DecoderPool
from serve_app.preprocess.picture_limits import ImageLabel, PictureLimits
from serve_app.settings import PreprocessSettings

LABEL = ImageLabel(2, "messages[0].content[1]")
LIMITS = PictureLimits.of_settings(PreprocessSettings())


@functools.cache
def shared_decoders() -> DecoderPool:
    return DecoderPool(PreprocessSettings())


def close_shared_decoders() -> None:
    if shared_decoders.cache_info().currsize:
        shared_decoders().close()
        shared_decoders.cache_clear()
