"""CUDA graphs of the decode step, one for each bucket of rows and length (graph buckets).

At batch 1 launching the kernels of a decode step one by one takes longer than running them. A graph replays
them with one launch. Its shapes are fixed, so there is one for each pair of a row bucket and a length bucket
(attention over pages needs no length: one bucket), captured before the first request; all share one memory
pool, since only one runs at a time. Capture follows torch.cuda.graph's own rules: a warm-up on a side
stream first, static inputs, and outputs that live until the next replay.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Step = Callable[[torch.Tensor, int], torch.Tensor]  # inputs (any, rows) and length to logits (rows, vocab)


class DecodeGraphs:
    """Runs a decode step by replaying the smallest captured graph that holds it."""

    def __init__(
        self,
        step: Step,
        rows: list[int],
        lengths: list[int],
        idle: list[int],
        device: torch.device,
        pool: Any = None,
    ) -> None:
        """Capture all buckets of `rows` and `lengths`; `idle` are the inputs of a row without a sequence.

        `pool` is the memory of the graphs, one of their own by default.
        """
        self._rows, self._lengths = rows, lengths
        self._idle = np.array(idle, dtype=np.int64)[:, None]
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}
        pool = pool or torch.cuda.graph_pool_handle()
        # The largest first: the others then find their memory in the pool.
        for bucket in sorted(itertools.product(rows, lengths), reverse=True):
            inputs = torch.from_numpy(np.repeat(self._idle, bucket[0], axis=1)).to(device)
            self._graphs[bucket] = (*capture(functools.partial(step, inputs, bucket[1]), pool), inputs)

    def replay(self, steps: NDArray[np.int64], length: int) -> torch.Tensor:
        """Logits (rows of the bucket, vocab) for steps (inputs, rows).

        The result is overwritten by the next replay of any graph.
        """
        rows = steps.shape[1]
        bucket = (
            self._rows[bisect.bisect_left(self._rows, rows)],
            self._lengths[bisect.bisect_left(self._lengths, length)],
        )
        graph, logits, inputs = self._graphs[bucket]
        padded = np.concatenate((steps, np.repeat(self._idle, bucket[0] - rows, axis=1)), axis=1)
        inputs.copy_(torch.from_numpy(padded).pin_memory(), non_blocking=True)
        graph.replay()
        return logits


def row_buckets(slots: int) -> list[int]:
    """1, 2, 4, 8, then steps of half the power of two below: at most half as many rows again, or three more."""
    buckets = [1, 2, 4]
    while buckets[-1] < slots:
        buckets.append(buckets[-1] + max(4, 2 ** (buckets[-1].bit_length() - 2)))
    return sorted({min(bucket, slots) for bucket in buckets})


def length_buckets(context_tokens: int) -> list[int]:
    """256, 512, then powers of two and the middles between them, up to the complete context."""
    buckets = [256, 512]
    while buckets[-1] < context_tokens:
        buckets += [buckets[-1] * 3 // 2, buckets[-1] * 2]
    return sorted({min(bucket, context_tokens) for bucket in buckets})


def capture(step: Callable[[], torch.Tensor], pool: Any) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """The graph of what `step` launches, in memory of `pool`, and its result, which the next replay overwrites."""
    stream = _warm_up_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # workspaces and handles of first use must not be created in the graph
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may call the driver meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = step()
    return graph, result


@functools.cache
def _warm_up_stream() -> torch.cuda.Stream:
    """One for all graphs: cuBLAS keeps 32 MiB for each stream that it has seen."""
    return torch.cuda.Stream()
