"""KV cache: one static block a layer, one row a slot, a separate length for every row.

The text trunk of `transformers` takes any `Cache` and calls its `update` with the new keys and values of a
layer, which returns all that this step attends to: `PrefillView` for a chunk of one sequence, `DecodeView` for
the same number of new tokens of many. Shapes are those of the trunk: (rows, kv_heads, tokens, head_dim).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Sizes of the KV cache of a model."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize

    def allocate(self, block: tuple[int, ...], device: torch.device) -> list[torch.Tensor]:
        """A tensor for each layer; of zeros, because unused places are read with weight 0, which keeps NaN."""
        return [torch.zeros(block, dtype=self.dtype, device=device) for _ in range(self.layers)]

    def slots_that_fit(self, free_bytes: int, context_tokens: int) -> int:
        """How many slots of `context_tokens` (and their dummy token) fit in `free_bytes`."""
        return free_bytes // (self.bytes_per_token * (context_tokens + 1))


class SlotCache:
    """Keys and values of all slots; the last token of each row is a dummy that idle rows write to."""

    def __init__(self, shape: CacheShape, slots: int, context_tokens: int, device: torch.device) -> None:
        self.context_tokens = context_tokens
        self.dummy_index = context_tokens  # an index that no sequence reaches
        block = (slots, shape.kv_heads, context_tokens + 1, shape.head_dim)
        self.keys, self.values = shape.allocate(block, device), shape.allocate(block, device)


class PrefillView(Cache):  # type: ignore[misc]
    """Tokens [start, stop) of one slot: writes them, returns [0, stop)."""

    def __init__(self, cache: SlotCache, slot: int, start: int, stop: int) -> None:
        super().__init__(layers=[])
        self._cache, self._slot, self._start, self._stop = cache, slot, start, stop

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shown = []
        for blocks, states in ((self._cache.keys, key_states), (self._cache.values, value_states)):
            row = blocks[layer_idx][self._slot : self._slot + 1, :, : self._stop]
            row[:, :, self._start :] = states
            shown.append(row)
        return shown[0], shown[1]


class DecodeView(Cache):  # type: ignore[misc]
    """New tokens of each of the first rows: writes them at `at` (rows, new tokens), returns `length` tokens."""

    def __init__(self, cache: SlotCache, at: torch.Tensor, length: int) -> None:
        super().__init__(layers=[])
        self._cache, self._at, self._length = cache, at, length
        self._rows = torch.arange(at.shape[0], device=at.device)[:, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shown = []
        for blocks, states in ((self._cache.keys, key_states), (self._cache.values, value_states)):
            block = blocks[layer_idx]
            block[self._rows, :, self._at] = states.transpose(1, 2)
            shown.append(block[: self._at.shape[0], :, : self._length])
        return shown[0], shown[1]
