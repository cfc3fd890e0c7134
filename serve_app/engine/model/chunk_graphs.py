"""CUDA graphs of steps that have chunks of prompts, for several numbers of tokens.

Launching a step's kernels one by one takes 9.5 ms of the host, and three times as long while other threads of the
process send events. Up to about 1,000 tokens that is as long as the GPU computes. A graph replays them with one launch.
Attention of pieces depends on no length (kernels/pieces.py), so a graph serves all steps of at most its tokens.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from serve_app.engine.model.batch import Batch, BatchSize, unpack

MOST_TOKENS = 1024  # beyond, the GPU computes for longer than launching takes
PIECES = 16  # of a captured step, one of them for padding
_STEP_TOKENS = 128  # between two graphs of steps with rows
_SHORT_TOKENS = [32, 64, 128, 256, 512]  # of steps without rows

Forward = Callable[[Tensor, Batch], Tensor]  # embeddings (tokens, hidden), overwritten, to hidden states


class ChunkGraphs:
    """Runs the layers over a step with chunks by replaying the smallest captured graph that holds it."""

    def __init__(
        self, forward: Forward, axes: int, rows: int, most_tokens: int, hidden: Tensor, idle_slot: int
    ) -> None:
        """Capture steps of up to `most_tokens` tokens, of no rows and of `rows`.

        `hidden` (any, hidden size) has the type and the device of the embeddings.
        """
        self._sizes = {
            bool(number): [BatchSize(axes, tokens, number, PIECES) for tokens in sizes if tokens >= number]
            for number, sizes in ((0, _up_to(_SHORT_TOKENS, most_tokens)), (rows, _steps(rows, most_tokens)))
        }
        self._embeddings = hidden.new_zeros(max(size.tokens for size in self._all), hidden.shape[1])
        self._graphs: dict[BatchSize, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        # The largest first: the others then find their memory in the pool.
        for size in sorted(self._all, key=lambda size: -size.tokens):
            self._graphs[size] = self._capture(forward, size, idle_slot, pool)

    @property
    def _all(self) -> list[BatchSize]:
        return [size for sizes in self._sizes.values() for size in sizes]

    def fitting(self, size: BatchSize) -> BatchSize | None:
        """The size of the smallest captured step that holds one of `size`; None if there is none."""
        sizes = self._sizes[size.rows > 0]
        index = bisect.bisect_left([one.tokens for one in sizes], size.tokens)
        return None if index == len(sizes) or size.pieces >= PIECES else sizes[index]

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

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()  # workspaces and handles of first use must not be created in the graph
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may call the driver meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            hidden = step()
        return graph, array, hidden


def _up_to(sizes: list[int], most: int) -> list[int]:
    return [size for size in sizes if size <= most]


def _steps(rows: int, most: int) -> list[int]:
    """Numbers of tokens of steps with rows, which are at most the tokens."""
    return [tokens for tokens in range(_STEP_TOKENS, most + 1, _STEP_TOKENS) if tokens > rows]
