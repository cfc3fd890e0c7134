"""Cache of image features by content hash: a repeated picture is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class FeatureCache:
    """Evicts the least recently used features above `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.bytes = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._entries

    def get(self, digest: str) -> torch.Tensor | None:
        features = self._entries.get(digest)
        if features is not None:
            self._entries.move_to_end(digest)
        return features

    def put(self, digest: str, features: torch.Tensor) -> None:
        """Add the features (tokens, hidden) of a picture, unless they alone exceed the limit."""
        if features.nbytes > self._max_bytes or digest in self._entries:
            return
        if features.untyped_storage().nbytes() > features.nbytes:
            features = features.clone()  # a part of a larger tensor, which it would keep in memory
        self._entries[digest] = features
        self.bytes += features.nbytes
        while self.bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.nbytes

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0
