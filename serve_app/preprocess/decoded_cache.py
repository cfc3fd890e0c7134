"""Cache of decoded pictures by tenant and file, so that a follow-up about a picture decodes nothing."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import replace

from serve_app.preprocess.decoder_pool import DecodedPicture, ReadPicture
from serve_app.preprocess.size_rule import SizeRule


class DecodedCache:
    """Decoded pictures, the least recently used ones dropped first; used in one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._pictures: OrderedDict[bytes, ReadPicture] = OrderedDict()
        self.bytes = 0  # of their pixels

    def get(self, key: bytes) -> ReadPicture | None:
        """The picture, with the times of a picture that was not decoded again."""
        found = self._pictures.get(key)
        if found is None or not isinstance(found.decoded, DecodedPicture):
            return None
        self._pictures.move_to_end(key)
        return replace(found, decoded=replace(found.decoded, decode_ms=0.0, resize_ms=0.0, cpu_s=0.0))

    def put(self, key: bytes, picture: ReadPicture) -> None:
        """Keep a picture; one that was not decoded, or is larger than the cache, is not kept."""
        if key in self._pictures or not isinstance(picture.decoded, DecodedPicture):
            return
        size = picture.decoded.pixels.nbytes
        if size > self._limit:
            return
        self._pictures[key] = picture
        self.bytes += size
        while self.bytes > self._limit:
            _, oldest = self._pictures.popitem(last=False)
            assert isinstance(oldest.decoded, DecodedPicture)
            self.bytes -= oldest.decoded.pixels.nbytes


def picture_key(tenant: str, file: bytes, rule: SizeRule) -> bytes:
    """SHA-256 over all that the decoded picture depends on, and the tenant: no tenant sees what others have sent."""
    context = json.dumps([tenant, rule.as_json()]).encode()
    return hashlib.sha256(len(context).to_bytes(8, "big") + context + file).digest()
