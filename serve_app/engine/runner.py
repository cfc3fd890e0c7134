"""The model over its slots: a prompt chunk of one sequence, one token for many sequences."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.contracts import Picture, Prompt
from serve_app.engine.models.glm4v import Glm4v
from serve_app.engine.scheduler import Chunk
from serve_app.engine.sequence import Sequence
from serve_app.engine.slots import DecodeView, PrefillView, SlotCache

_LENGTH_STEP = 128  # decode looks at a multiple of this many tokens, so that shapes repeat


class Runner:
    """Turns chunks and sequences into logits; knows slots and shapes, not requests' fate."""

    def __init__(self, model: Glm4v, slots: int, context_tokens: int) -> None:
        self.model = model
        self.context_tokens = context_tokens
        self._cache = SlotCache(model.cache_shape, slots, context_tokens, model.device)
        self._device = model.device

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def stop_ids(self) -> frozenset[int]:
        return self.model.stop_ids

    @property
    def device(self) -> torch.device:
        return self._device

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        """Positions (axes, tokens) of a prompt and the delta of what follows it."""
        return self.model.positions(prompt)

    @torch.inference_mode()
    def encode(self, picture: Picture) -> torch.Tensor:
        """Image features (tokens, hidden)."""
        return self.model.encode(picture)

    @torch.inference_mode()
    def prefill(self, chunk: Chunk) -> torch.Tensor | None:
        """Take in a chunk; logits (1, vocab) after the prompt's last token, None before that."""
        sequence, start, stop = chunk.sequence, chunk.start, chunk.stop
        token_ids = sequence.prompt.token_ids
        ids = torch.from_numpy(token_ids[start:stop].astype(np.int64)).to(self._device)
        embeddings = self.model.embed(ids[None])
        places = self.model.image_places(token_ids)
        if sequence.features is not None and places[start:stop].any():
            first = int(places[:start].sum())
            here = torch.from_numpy(np.flatnonzero(places[start:stop])).to(self._device)
            embeddings[0, here] = sequence.features[first : first + len(here)].to(embeddings.dtype)
        positions = torch.from_numpy(sequence.positions[:, start:stop]).to(self._device)
        hidden = self.model.trunk(
            embeddings,
            positions[:, None],
            PrefillView(self._cache, sequence.slot, start, stop),
            _chunk_mask(start, stop, self._device),
        )
        return self.model.head(hidden[:, -1]) if chunk.completes else None

    @torch.inference_mode()
    def decode(self, sequences: list[Sequence]) -> torch.Tensor:
        """Feed each sequence its newest token; logits (sequences, vocab) in the given order.

        Rows up to the highest slot in use are computed; idle ones among them write to the trash token.
        """
        rows = max(sequence.slot for sequence in sequences) + 1
        steps = np.zeros((3, rows), dtype=np.int64)  # token id, index in the cache, position
        steps[1] = self._cache.trash
        for sequence in sequences:
            at = sequence.cached
            steps[:, sequence.slot] = sequence.generated[-1], at, at + sequence.position_delta
        longest = max(sequence.cached for sequence in sequences) + 1
        length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.context_tokens)
        token_ids, at, position = torch.from_numpy(steps).to(self._device)
        mask = torch.arange(length, device=self._device)[None, :] <= at[:, None]  # (rows, length)
        hidden = self.model.trunk(
            self.model.embed(token_ids[:, None]),
            position[None, :, None].expand(3, -1, 1),
            DecodeView(self._cache, at, length),
            mask[:, None, None],
        )
        used = [sequence.slot for sequence in sequences]
        last = hidden[:, -1] if len(used) == rows else hidden[used, -1]
        return self.model.head(last)


def _chunk_mask(start: int, stop: int, device: torch.device) -> torch.Tensor | None:
    """Which tokens [0, stop) each token of the chunk [start, stop) sees, (1, 1, chunk, stop)."""
    if start == 0:
        return None  # causal from the first token: attention has a faster path for that
    seen = torch.arange(stop, device=device)[None, :] <= torch.arange(start, stop, device=device)[:, None]
    return seen[None, None]
