"""Batch of one forward pass: positions and cache places of its tokens, and the places they attend to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Sequences with one new token each."""

    slots: Tensor  # (rows,) int64: whose row of the page table
    lengths: Tensor  # (rows,) int64: tokens to attend to, the new one included


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of prompts, packed one after the other; each attends to the earlier tokens of its prompt and its own."""

    lengths: list[tuple[int, int]]  # (new tokens, all tokens to attend to) of each piece
    starts: Tensor  # (pieces + 1,) int32: where each piece begins among the new tokens
    key_starts: Tensor  # (pieces + 1,) int32: the same among `places`
    places: Tensor  # (tokens attended to,) int64: where their keys and values are


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of a step: first those of `rows`, then those of `pieces`."""

    positions: Tensor  # (axes, tokens) int64
    places: Tensor  # (tokens,) int64: where each token's keys and values go
    rows: Rows | None
    pieces: Pieces | None
