"""The model over slots, by the library's own module: a prompt chunk of one sequence, or tokens of many."""

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
_COST_OF_DRAFTED = 0.03  # time of one more drafted token, in decode steps: the demo model on two CPU cores


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
        if self.device.type == "cuda":
            rows, lengths = row_buckets(self._cache.keys[0].shape[0]), length_buckets(self.context_tokens)
            idle = [0, self._cache.dummy_index, 0]
            self._graphs = DecodeGraphs(
                lambda steps, length: self._step(steps[:, :, None], length)[:, 0], rows, lengths, idle, self.device
            )

    def cache_bytes(self, sequence: Sequence) -> int:
        """The size of its slot."""
        return (self.context_tokens + 1) * self.model.cache_shape.bytes_per_token

    @torch.inference_mode()
    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        """Logits (samples, vocab) of `rows` and drafts, or of one prompt chunk if it completes its prompt."""
        return self._decode(rows, chunks) if rows or chunks[0].drafted else self._prefill(*chunks)

    @torch.inference_mode()
    def erase(self, sequence: Sequence, pages: list[int]) -> None:
        """Clear the slot."""
        for block in (*self._cache.keys, *self._cache.values):
            block[sequence.slot].zero_()

    def drafts_save_time(self, rows: int, drafts: list[Chunk], with_prompts: bool) -> bool:
        """All rows are as wide as the longest draft, so a few drafts save no time where many sequences decode."""
        if self.device.type != "cpu":
            return False  # the graphs are of one token per row
        drafted = [len(draft.drafted) - 1 for draft in drafts]
        return sum(drafted) >= rows * rows * max(drafted) * _COST_OF_DRAFTED

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
        ids = torch.from_numpy(prompt.token_ids[start:stop].astype(np.int64)).to(self.device)
        embeddings = self.model.embed(ids[None])
        image_mask = self.model.image_mask(prompt)
        if features is not None and image_mask[start:stop].any():
            first = int(image_mask[:start].sum())
            here = torch.from_numpy(np.flatnonzero(image_mask[start:stop])).to(self.device)
            embeddings[0, here] = features[first : first + len(here)].to(embeddings.dtype)
        at = torch.from_numpy(positions[:, None, start:stop]).to(self.device)
        view = PrefillView(self._cache, slot, start, stop)
        return self.model.trunk(embeddings, at, view, _chunk_mask(start, stop, self.device))[0]

    def probe_hidden(self, prompt: Prompt, features: torch.Tensor) -> torch.Tensor:
        positions, _ = self.model.positions(prompt)
        return self.hidden(prompt, features, positions, slot=0, start=0, stop=len(prompt.token_ids))

    def _decode(self, sequences: list[Sequence], drafts: list[Chunk]) -> torch.Tensor:
        """Feed each sequence its newest token, or the tokens of its draft; logits (samples, vocab) in the given order.

        Rows up to the highest slot in use are computed, as wide as the longest draft; what is unused among them is
        written to the dummy token.
        """
        inputs: list[tuple[Sequence, int, tuple[int, ...]]]
        inputs = [(one, one.cached, (one.generated[-1],)) for one in sequences]
        inputs += [(draft.sequence, draft.start, draft.drafted) for draft in drafts]
        rows = max(one.slot for one, _, _ in inputs) + 1
        width = max(len(tokens) for _, _, tokens in inputs)
        steps = np.zeros((3, rows, width), dtype=np.int64)  # token id, index in the cache, position
        steps[1] = self._cache.dummy_index
        for one, start, tokens in inputs:
            at = np.arange(start, start + len(tokens))
            steps[:, one.slot, : len(tokens)] = tokens, at, at + one.position_delta
        longest = max(start + len(tokens) for _, start, tokens in inputs)
        if self._graphs is not None and width == 1:
            logits = self._graphs.replay(steps[:, :, 0], longest)
        else:
            length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.context_tokens)
            logits = self._step(torch.from_numpy(steps).to(self.device), length).flatten(0, 1)
        used = [one.slot * width + place for one, _, tokens in inputs for place in range(len(tokens))]
        return logits if used == list(range(len(logits))) else logits[used]

    def _step(self, steps: torch.Tensor, length: int) -> torch.Tensor:
        """Logits (rows, width, vocab) after tokens of rows; steps (3, rows, width), attending to `length` tokens."""
        token_ids, at, position = steps
        mask = torch.arange(length, device=self.device) <= at[:, :, None]  # (rows, width, length)
        hidden = self.model.trunk(
            self.model.embed(token_ids),
            position.expand(self.model.position_axes, -1, -1),
            DecodeView(self._cache, at, length),
            mask[:, None],
        )
        return self.model.head(hidden)


def _chunk_mask(start: int, stop: int, device: torch.device) -> torch.Tensor | None:
    """Which tokens [0, stop) each token of the chunk [start, stop) sees, (1, 1, chunk, stop)."""
    if start == 0:
        return None  # causal from the first token: attention has a faster path for that
    seen = torch.arange(stop, device=device)[None, :] <= torch.arange(start, stop, device=device)[:, None]
    return seen[None, None]
