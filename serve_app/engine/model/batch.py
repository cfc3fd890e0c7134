"""Batch of one forward pass: positions and cache places of its tokens, and the places they attend to.

On the host a batch is one array, so that one copy brings it to the device. It can be padded to the size of a captured
graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Sequences with one new token each."""

    slots: Tensor  # (rows,) int64: whose row of the page table
    lengths: Tensor  # (rows,) int64: tokens to attend to, the new one included


@dataclass(frozen=True, slots=True)
class Pieces:
    """Prompt chunks in packed form; each attends to the earlier tokens of its prompt and to its own."""

    slots: Tensor  # (pieces,) int64: whose row of the page table
    starts: Tensor  # (pieces + 1,) int64: where each piece begins among the step's tokens, and the end of the last
    lengths: Tensor  # (pieces,) int64: tokens to attend to, its own included
    sizes: list[tuple[int, int]] | None  # (new tokens, tokens to attend to) of each, where the host knows them


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of a step: first those of `rows`, then those of `pieces`.

    Of a padded batch, `rows` has more sequences than tokens: what they compute is overwritten by the pieces.
    """

    positions: Tensor  # (axes, tokens) int64
    places: Tensor  # (tokens,) int64: index of each token's keys and values in the KV cache (vLLM: slot mapping)
    rows: Rows | None
    pieces: Pieces | None


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Numbers of tokens, rows and pieces of a batch, and of axes of its positions."""

    axes: int
    tokens: int
    rows: int
    pieces: int

    @property
    def part_lengths(self) -> list[int]:
        """Lengths of the array's parts: positions, places, slots and lengths of rows, of pieces, starts."""
        starts = self.pieces + 1 if self.pieces else 0
        return [self.axes * self.tokens, self.tokens, self.rows, self.rows, self.pieces, self.pieces, starts]

    def empty(self, idle_slot: int) -> Ints:
        """The array of a batch that has padding only."""
        none = np.empty(0, dtype=np.int64)
        return HostBatch(np.empty((self.axes, 0), dtype=np.int64), *[none] * 6).pack(self, idle_slot)


@dataclass(frozen=True, slots=True)
class HostBatch:
    """A batch on the host."""

    positions: Ints  # (axes, tokens)
    places: Ints  # (tokens,)
    row_slots: Ints
    row_lengths: Ints
    piece_slots: Ints
    piece_tokens: Ints  # new tokens of each piece
    piece_lengths: Ints  # tokens that each piece attends to

    @property
    def size(self) -> BatchSize:
        axes, tokens = self.positions.shape
        return BatchSize(axes, tokens, len(self.row_slots), len(self.piece_slots))

    def pack(self, size: BatchSize, idle_slot: int) -> Ints:
        """The batch as one array of `size.part_lengths`, padded to `size` by rows and one piece of `idle_slot`.

        A padded batch needs room for one piece more than it has. Padding writes to page 0, which no sequence has.
        """
        tokens, rows, pieces = len(self.places), len(self.row_slots), len(self.piece_slots)
        padding = size.tokens - tokens
        starts = np.concatenate(([rows], rows + np.cumsum(self.piece_tokens))) if size.pieces else self.piece_tokens
        more = size.pieces - pieces
        return np.concatenate(
            [
                np.pad(self.positions, ((0, 0), (0, padding))).ravel(),
                np.pad(self.places, (0, padding)),
                np.pad(self.row_slots, (0, size.rows - rows), constant_values=idle_slot),
                np.pad(self.row_lengths, (0, size.rows - rows), constant_values=1),
                np.pad(self.piece_slots, (0, more), constant_values=idle_slot),
                np.pad(self.piece_lengths, (0, more), constant_values=padding),
                np.pad(starts, (0, more), constant_values=size.tokens),
            ]
        )


def unpack(array: Tensor, size: BatchSize, sizes: list[tuple[int, int]] | None = None) -> Batch:
    """The batch that `HostBatch.pack` made one array of; `sizes` are those of its pieces, if known."""
    positions, places, row_slots, row_lengths, piece_slots, piece_lengths, starts = array.split(size.part_lengths)
    rows = Rows(row_slots, row_lengths) if size.rows else None
    pieces = Pieces(piece_slots, starts, piece_lengths, sizes) if size.pieces else None
    return Batch(positions.view(size.axes, size.tokens), places, rows, pieces)
