"""Cache of decoded pictures by tenant and file, so that a follow-up about a picture decodes nothing.

Pixels have a limit of bytes; headers and digests are kept for many more pictures, since the engine may still have the
features of a picture whose pixels are gone.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import UnsentPixels
from serve_app.preprocess.decoder_pool import DecodedPicture, ReadPicture
from serve_app.preprocess.size_rule import SizeRule

KNOWN_PICTURES: Final = 10_000  # without pixels, about 10 MB


class DecodedCache:
    """Decoded pictures, the least recently used ones dropped first; used in one event loop."""

    def __init__(self, limit_bytes: int, known_pictures: int = KNOWN_PICTURES) -> None:
        """With no bytes it keeps nothing."""
        self._limit = limit_bytes
        self._most_known = known_pictures if limit_bytes else 0
        self._known: OrderedDict[bytes, ReadPicture] = OrderedDict()  # with `UnsentPixels`
        self._pixels: OrderedDict[bytes, NDArray[np.uint8]] = OrderedDict()
        self.bytes = 0  # of pixels

    def get(self, key: bytes, *, with_pixels: bool = True) -> ReadPicture | None:
        """The picture, with the times of a picture that was not decoded again; None if it, or its pixels, is gone."""
        pixels = self._pixels.get(key)
        if pixels is not None:
            self._pixels.move_to_end(key)
        known = self._known.get(key)
        if known is None or (with_pixels and pixels is None):
            return None
        self._known.move_to_end(key)
        if not with_pixels:
            return known
        assert isinstance(known.decoded, DecodedPicture)
        assert pixels is not None
        return replace(known, decoded=replace(known.decoded, pixels=pixels))

    def put(self, key: bytes, picture: ReadPicture) -> None:
        """Keep a picture; one that was not decoded is not kept, nor are pixels larger than the cache."""
        decoded = picture.decoded
        if not isinstance(decoded, DecodedPicture) or isinstance(decoded.pixels, UnsentPixels):
            return
        described = replace(decoded, pixels=UnsentPixels(decoded.pixels.shape), decode_ms=0.0, resize_ms=0.0, cpu_s=0.0)
        self._known[key] = replace(picture, decoded=described)
        self._known.move_to_end(key)
        if len(self._known) > self._most_known:
            self._known.popitem(last=False)
        size = decoded.pixels.nbytes
        if key in self._pixels or size > self._limit:
            return
        self._pixels[key] = decoded.pixels
        self.bytes += size
        while self.bytes > self._limit:
            _, oldest = self._pixels.popitem(last=False)
            self.bytes -= oldest.nbytes


def picture_key(tenant: str, file: bytes, rule: SizeRule) -> bytes:
    """SHA-256 over all that the decoded picture depends on, and the tenant: no tenant sees what others have sent."""
    context = json.dumps([tenant, rule.as_json()]).encode()
    return hashlib.sha256(len(context).to_bytes(8, "big") + context + file).digest()


def page_key(document: bytes, page: int) -> bytes:
    """The key of a page, from 1, of the document with this key."""
    return hashlib.sha256(document + page.to_bytes(8, "big")).digest()
