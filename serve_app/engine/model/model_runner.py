"""Model runner: forward passes for a prompt chunk of one sequence and a decode step of many."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.contracts import Picture, Prompt
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.graphs import DecodeGraphs
from serve_app.engine.model.slots import DecodeView, PrefillView, SlotCache
from serve_app.engine.scheduler import Chunk
from serve_app.engine.sequence import Sequence
from serve_app.errors import InvalidRequest

_LENGTH_STEP = 128  # decode attends to a multiple of this many tokens, so that shapes repeat


class ModelRunner:
    """Computes the logits of chunks and sequences over the slots of the KV cache."""

    def __init__(self, model: ModelAdapter, slots: int, context_tokens: int) -> None:
        self.model = model
        self.context_tokens = context_tokens
        self._cache = SlotCache(model.cache_shape, slots, context_tokens, model.device)
        self._device = model.device
        self._graphs: DecodeGraphs | None = None

    @torch.inference_mode()
    def capture_graphs(self) -> None:
        """On a GPU, record the decode step once a bucket, so that later steps are one launch."""
        if self._device.type == "cuda":
            slots = self._cache.keys[0].shape[0]
            self._graphs = DecodeGraphs(self._step, slots, self.context_tokens, self._cache.trash, self._device)

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
        """Compute a chunk; returns logits (1, vocab) after the prompt's last token, None before that."""
        one = chunk.sequence
        hidden = self.hidden(one.prompt, one.features, one.positions, one.slot, chunk.start, chunk.stop)
        return self.model.head(hidden[-1:]) if chunk.completes else None

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

    @torch.inference_mode()
    def check_numbers(self) -> None:
        """Run the adapter's probe in the first slot; raises `InvalidRequest` if a stage gives infinity or NaN.

        Call it before the first request. float16 ends at 65504, and a model trained in bfloat16 may go beyond.
        """
        prompt = self.model.probe()
        features = torch.cat([self.model.encode(picture) for picture in prompt.pictures])
        positions, _ = self.model.positions(prompt)
        hidden = self.hidden(prompt, features, positions, slot=0, start=0, stop=len(prompt.token_ids))
        stages = {"vision tower": features, "text layers": hidden, "head": self.model.head(hidden[-1:])}
        broken = next((stage for stage, values in stages.items() if not bool(values.isfinite().all())), None)
        if broken is not None and self.model.dtype == torch.float16:
            raise InvalidRequest(
                f"The model's {broken} needs larger numbers than float16 has. Run it on a GPU with bfloat16 (compute "
                "capability 8.0 or newer) or set model.dtype to float32.",
                param="model.dtype",
            )
        if broken is not None:
            raise InvalidRequest(
                f"The model's {broken} gives values that are not numbers. Are its weights undamaged?",
                param="model.path",
            )


def _chunk_mask(start: int, stop: int, device: torch.device) -> torch.Tensor | None:
    """Which tokens [0, stop) each token of the chunk [start, stop) sees, (1, 1, chunk, stop)."""
    if start == 0:
        return None  # causal from the first token: attention has a faster path for that
    seen = torch.arange(stop, device=device)[None, :] <= torch.arange(start, stop, device=device)[:, None]
    return seen[None, None]
