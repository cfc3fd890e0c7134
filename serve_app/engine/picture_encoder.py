"""Image features of prompts' pictures: from the cache, or computed in slices between decode steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Protocol

import torch

from serve_app import metrics
from serve_app.contracts import Picture
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.sequence import Sequence

_PACKED_TOKENS = 4096  # image tokens computed together: enough to fill a GPU with small pictures


class PictureModel(Protocol):
    """The model interface of the encoder."""

    def encode_slices(self, pictures: list[Picture]) -> Generator[None, None, list[torch.Tensor]]: ...


class PictureEncoder:
    """Computes the image features of sequences, or reads them from the cache."""

    def __init__(
        self,
        model: PictureModel,
        features: FeatureCache,
        meter: metrics.Meter,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._features = features
        self._meter = meter
        self._clock = clock
        self._job: Generator[None, None, None] | None = None
        self._sequences: list[Sequence] = []  # of the job

    def advance(self, sequences: list[Sequence], all_slices: bool) -> list[tuple[Sequence, Exception]]:
        """Compute the next slice for those of `sequences` that need features, or all; return those that failed."""
        failures: list[tuple[Sequence, Exception]] = []
        while self._job is not None or (waiting := [s for s in sequences if s.needs_features and s.slot >= 0]):
            if self._job is None:
                self._sequences = _packed(waiting)
                self._job = self._encode(self._sequences)
            try:
                next(self._job)
                if not all_slices:
                    break
                continue
            except StopIteration:
                self._job = None
            except Exception as error:
                self._job = None
                failures += self._encode_singly(error)
        return failures

    def _encode_singly(self, error: Exception) -> list[tuple[Sequence, Exception]]:
        """After an error: encode the sequences of the job one by one, so that the error affects only its cause."""
        for sequence in self._sequences:
            sequence.needs_features = False  # computed now, or never
        if len(self._sequences) == 1:
            return [(self._sequences[0], error)]
        failures: list[tuple[Sequence, Exception]] = []
        for sequence in self._sequences:
            try:
                for _ in self._encode([sequence]):
                    pass
            except Exception as own:
                failures.append((sequence, own))
        return failures

    @torch.inference_mode()
    def _encode(self, sequences: list[Sequence]) -> Generator[None, None, None]:
        started = self._clock()
        pictures = [picture for sequence in sequences for picture in sequence.prompt.pictures]
        known: dict[str, torch.Tensor] = {}
        missing: dict[str, Picture] = {}
        for picture in pictures:
            found = self._features.get(picture.digest)
            self._meter.count(metrics.FEATURE_CACHE_MISSES if found is None else metrics.FEATURE_CACHE_HITS)
            if found is None:
                missing[picture.digest] = picture
            else:
                known[picture.digest] = found
        if missing:
            for digest, features in zip(
                missing, (yield from self._model.encode_slices(list(missing.values()))), strict=True
            ):
                known[digest] = features
                self._features.put(digest, features)
        seconds = self._clock() - started
        for sequence in sequences:
            sequence.features = torch.cat([known[picture.digest] for picture in sequence.prompt.pictures])
            sequence.needs_features = False
            sequence.stages_ms["encode"] = seconds * 1e3
            self._meter.observe(metrics.STAGE_SECONDS, seconds, stage="encode")


def _packed(sequences: list[Sequence]) -> list[Sequence]:
    """The first sequences, as many as are computed together."""
    chosen: list[Sequence] = []
    tokens = 0
    for sequence in sequences:
        tokens += sequence.prompt.image_tokens
        if chosen and tokens > _PACKED_TOKENS:
            break
        chosen.append(sequence)
    return chosen
