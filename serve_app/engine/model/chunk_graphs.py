"""CUDA graphs of steps that have chunks of prompts, and the sizes that other steps are padded to.

Launching a step's kernels one by one takes 9.5 ms of the host, and three times as long while other threads of the
process send events. Up to about 1,000 tokens that is as long as the GPU computes. A graph replays them with one launch.
Attention of pieces depends on no length (kernels/pieces.py), so a graph serves all steps of at most its tokens.

Steps that are launched kernel by kernel are padded to few numbers of tokens too: at the first use of a number, cuBLAS
looks for a kernel, which takes up to 0.5 ms per product. Products work in tiles of 128 tokens, so padding costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from serve_app.engine.model.batch import Batch, BatchSize, unpack
from serve_app.engine.model.graphs import capture

MOST_TOKENS = 1024  # beyond, the GPU computes for longer than launching takes
PIECES = 16  # of a captured step, one of them for padding
TOKEN_MULTIPLE = 128  # between two graphs of steps with rows, and between two sizes of steps that are launched
SHORT_TOKENS = [32, 64, 128, 256, 512]  # of steps without rows

Forward = Callable[[Tensor, Batch], Tensor]  # embeddings (tokens, hidden), overwritten, to hidden states


class ChunkGraphs:
    """Runs the layers over a step with chunks by replaying the smallest captured graph that holds it."""

    def __init__(
        self, forward: Forward, axes: int, rows: int, most_tokens: int, hidden: Tensor, idle_slot: int, pool: Any
    ) -> None:
        """Capture steps of up to `most_tokens` tokens, of no rows and of `rows`.

        `hidden` (any, hidden size) has the type and the device of the embeddings; `pool` is the graphs' memory.
        """
        self._sizes = chunk_sizes(axes, rows, most_tokens)
        self._embeddings = hidden.new_zeros(max(size.tokens for size in self._sizes), hidden.shape[1])
        self._graphs: dict[BatchSize, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        # The largest first: the others then find their memory in the pool.
        for size in sorted(self._sizes, key=lambda size: -size.tokens):
            self._graphs[size] = self._capture(forward, size, idle_slot, pool)

    def fitting(self, size: BatchSize) -> BatchSize | None:
        """The size of the smallest captured step that holds one of `size`; None if there is none."""
        return fitting(self._sizes, size)

    def replay(self, size: BatchSize, array: Tensor, embeddings: Tensor) -> Tensor:
        """Hidden states (tokens of `size`, hidden) of a batch that was packed to a captured size.

        The first rows are those of `embeddings` (tokens, hidden). The next replay of any graph overwrites the result.
        """
        graph, inputs, hidden = self._graphs[size]
        inputs.copy_(array)
        self._embeddings[: len(embeddings)].copy_(embeddings)
        graph.replay()
        return hidden

    def _capture(
        self, forward: Forward, size: BatchSize, idle_slot: int, pool: Any
    ) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        device = self._embeddings.device
        array = torch.from_numpy(size.empty(idle_slot)).to(device)
        embeddings = self._embeddings[: size.tokens]

        def step() -> Tensor:
            return forward(embeddings, unpack(array, size))

        graph, hidden = capture(step, pool)
        return graph, array, hidden


def chunk_sizes(axes: int, rows: int, most_tokens: int) -> list[BatchSize]:
    """The sizes that are captured: without rows, and with `rows`, each for several numbers of tokens."""
    most = min(most_tokens, MOST_TOKENS)
    without = [BatchSize(axes, tokens, 0, PIECES) for tokens in SHORT_TOKENS if tokens <= most]
    tokens_with = range(TOKEN_MULTIPLE, most + 1, TOKEN_MULTIPLE)
    return without + [BatchSize(axes, tokens, rows, PIECES) for tokens in tokens_with if tokens >= rows]


def fitting(sizes: list[BatchSize], size: BatchSize) -> BatchSize | None:
    """The smallest of `sizes` that holds a step of `size`, padded by one piece at least; None if there is none."""
    holding = (one for one in sizes if bool(one.rows) == bool(size.rows) and one.tokens >= size.tokens)
    return None if size.pieces >= PIECES else min(holding, key=lambda one: one.tokens, default=None)


def padded(size: BatchSize) -> BatchSize:
    """The size of a launched step that holds one of `size`, with a piece for the padding if it has any."""
    tokens = next((short for short in SHORT_TOKENS if size.tokens <= short <= TOKEN_MULTIPLE), 0)
    tokens = tokens or -(-size.tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
    return replace(size, tokens=tokens, pieces=size.pieces + (tokens > size.tokens))
