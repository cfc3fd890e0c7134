"""The model over slots, by the library's own module: a prompt chunk of one sequence, or a token for many."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.contracts import Prompt
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.graphs import DecodeGraphs, length_buckets, row_buckets
from serve_app.engine.model.runner import Runner
from serve_app.engine.model.slots import DecodeView, PrefillView, SlotCache
from serve_app.engine.scheduler import Chunk
from serve_app.engine.sequence import Sequence

_LENGTH_STEP = 128  # decode attends to a multiple of this many tokens, so that shapes repeat


class SlotRunner(Runner):
    """Computes the logits of chunks and sequences over the slots of the KV cache."""

    mixes_prefill_and_decode = False

    def __init__(self, model: ModelAdapter, slots: int, context_tokens: int) -> None:
        super().__init__(model, context_tokens)
        self._cache = SlotCache(model.cache_shape, slots, context_tokens, model.device)
        self._graphs: DecodeGraphs | None = None

    @torch.inference_mode()
    def capture_graphs(self) -> None:
        """On a GPU, record the decode step once a bucket, so that later steps are one launch."""
        if self._device.type == "cuda":
            rows, lengths = row_buckets(self._cache.keys[0].shape[0]), length_buckets(self.context_tokens)
            self._graphs = DecodeGraphs(self._step, rows, lengths, [0, self._cache.dummy_index, 0], self._device)

    def cache_bytes(self, sequence: Sequence) -> int:
        """The size of its slot."""
        return (self.context_tokens + 1) * self.model.cache_shape.bytes_per_token

    @torch.inference_mode()
    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        """Logits (sequences, vocab) of `rows` if there are any, else of the one chunk's sequence if it completes it."""
        return self._decode(rows) if rows else self._prefill(*chunks)

    def _prefill(self, chunk: Chunk) -> torch.Tensor:
        one = chunk.sequence
        hidden = self.hidden(one.prompt, one.features, one.positions, one.slot, chunk.start, chunk.stop)
        return self.model.head(hidden[-1:] if chunk.completes else hidden[:0])

    @torch.inference_mode()
    def hidden(
        self,
        prompt: Prompt,
        features: torch.Tensor | None,
        positions: NDArray[np.int64],
        slot: int,
        start: int,
        stop: int,
    ) -> torch.Tensor:
        """Compute prompt tokens [start, stop) in a slot with the tokens before; hidden states (tokens, hidden).

        `features` (image tokens, hidden) and `positions` (axes, tokens) are those of the complete prompt.
        """
        ids = torch.from_numpy(prompt.token_ids[start:stop].astype(np.int64)).to(self._device)
        embeddings = self.model.embed(ids[None])
        image_mask = self.model.image_mask(prompt)
        if features is not None and image_mask[start:stop].any():
            first = int(image_mask[:start].sum())
            here = torch.from_numpy(np.flatnonzero(image_mask[start:stop])).to(self._device)
            embeddings[0, here] = features[first : first + len(here)].to(embeddings.dtype)
        at = torch.from_numpy(positions[:, None, start:stop]).to(self._device)
        view = PrefillView(self._cache, slot, start, stop)
        return self.model.trunk(embeddings, at, view, _chunk_mask(start, stop, self._device))[0]

    def warm_up(self, prefill_tokens: int) -> None:
        """Nothing: the library's modules compile no kernels."""

    def keep(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
        """Does nothing: each step here begins with tokens that the host has read."""

    def probe_hidden(self, prompt: Prompt, features: torch.Tensor) -> torch.Tensor:
        positions, _ = self.model.positions(prompt)
        return self.hidden(prompt, features, positions, slot=0, start=0, stop=len(prompt.token_ids))

    def _decode(self, sequences: list[Sequence]) -> torch.Tensor:
        """Feed each sequence its newest token; logits (sequences, vocab) in the given order.

        Rows up to the highest slot in use are computed; idle ones among them write to the dummy token.
        """
        rows = max(sequence.slot for sequence in sequences) + 1
        steps = np.zeros((3, rows), dtype=np.int64)  # token id, index in the cache, position
        steps[1] = self._cache.dummy_index
        for sequence in sequences:
            at = sequence.cached
            steps[:, sequence.slot] = sequence.generated[-1], at, at + sequence.position_delta
        longest = max(sequence.cached for sequence in sequences) + 1
        if self._graphs is not None:
            logits = self._graphs.replay(steps, longest)
        else:
            length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.context_tokens)
            logits = self._step(torch.from_numpy(steps).to(self._device), length)
        used = [sequence.slot for sequence in sequences]
        return logits if used == list(range(len(logits))) else logits[used]

    def _step(self, steps: torch.Tensor, length: int) -> torch.Tensor:
        """Logits (rows, vocab) after one token a row; steps (3, rows) on the device, attending to `length` tokens."""
        token_ids, at, position = steps
        mask = torch.arange(length, device=self._device)[None, :] <= at[:, None]  # (rows, length)
        hidden = self.model.trunk(
            self.model.embed(token_ids[:, None]),
            position[None, :, None].expand(self.model.position_axes, -1, 1),
            DecodeView(self._cache, at, length),
            mask[:, None, None],
        )
        return self.model.head(hidden[:, -1])


def _chunk_mask(start: int, stop: int, device: torch.device) -> torch.Tensor | None:
    """Which tokens [0, stop) each token of the chunk [start, stop) sees, (1, 1, chunk, stop)."""
    if start == 0:
        return None  # causal from the first token: attention has a faster path for that
    seen = torch.arange(stop, device=device)[None, :] <= torch.arange(start, stop, device=device)[:, None]
    return seen[None, None]
