"""Image features of prompts' pictures: from the cache, or computed in small jobs between steps.

A job is some pictures that are computed together. The prompt with the fewest image tokens left comes first, the oldest
one in every fourth job: a prompt of many pictures does not delay others, and none waits without end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import torch

from serve_app import metrics
from serve_app.contracts import Picture
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.sequence import Sequence, charge_device_time

JOB_TOKENS_GPU = 4096  # image tokens of a job: enough to fill a GPU with small pictures
JOB_TOKENS_CPU = 512
OLDEST_EVERY = 4  # jobs


class PictureModel(Protocol):
    """The model interface of the encoder."""

    @property
    def device(self) -> torch.device: ...

    def encode_slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]: ...


@dataclass(slots=True)
class _Job:
    """Pictures by digest, the sequences that need them, and the computation, which yields after each slice."""

    pictures: dict[str, Picture]
    sequences: list[Sequence]
    slices: Generator[int, None, list[torch.Tensor]]
    seconds: float = 0.0


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
        self._job_tokens = JOB_TOKENS_CPU if model.device.type == "cpu" else JOB_TOKENS_GPU
        self._job: _Job | None = None
        self._jobs = 0

    def advance(self, sequences: list[Sequence], image_tokens: int | None) -> list[tuple[Sequence, Exception]]:
        """Compute features for `sequences`, the oldest first; returns those that failed.

        It stops when the slices were worth `image_tokens`; None: after one job.
        """
        encoded = 0
        failures: list[tuple[Sequence, Exception]] = []
        while True:
            waiting = [sequence for sequence in sequences if sequence.needs_features and sequence.slot >= 0]
            if self._job is None and waiting:
                self._job = self._next_job(waiting)
            if self._job is None:
                return failures
            job, started = self._job, self._clock()
            try:
                with torch.inference_mode():
                    while image_tokens is None or encoded < image_tokens:
                        encoded += next(job.slices)
                job.seconds += self._clock() - started
                return failures
            except StopIteration as ended:
                self._job = None
                job.seconds += self._clock() - started
                self._add(job, ended.value)
            except Exception as error:
                self._job = None
                failures += self._encode_singly(job, error)
            if image_tokens is None:
                return failures

    def _next_job(self, waiting: list[Sequence]) -> _Job | None:
        """The next pictures to compute; None if the cache had all that were missing."""
        for sequence in waiting:
            self._look_up(sequence)
        waiting = [sequence for sequence in waiting if sequence.needs_features]
        oldest_first = self._jobs % OLDEST_EVERY == 0
        self._jobs += 1
        chosen: dict[str, Picture] = {}
        tokens = 0
        for sequence in waiting if oldest_first else sorted(waiting, key=_by_lane_and_size):
            for picture in sequence.prompt.pictures:
                if picture.digest in sequence.encoded or picture.digest in chosen:
                    continue
                if chosen and tokens + picture.tokens > self._job_tokens:
                    return self._job_of(chosen, waiting)
                chosen[picture.digest] = picture
                tokens += picture.tokens
        return self._job_of(chosen, waiting) if chosen else None

    def _job_of(self, pictures: dict[str, Picture], waiting: list[Sequence]) -> _Job:
        sequences = [s for s in waiting if any(p.digest in pictures for p in s.prompt.pictures)]
        return _Job(pictures, sequences, self._model.encode_slices(list(pictures.values())))

    def _look_up(self, sequence: Sequence) -> None:
        """Take from the cache what it has of a sequence's pictures, once."""
        if sequence.looked_up:
            return
        sequence.looked_up = True
        for picture in sequence.prompt.pictures:
            found = self._features.get(picture.digest)
            self._meter.count(metrics.FEATURE_CACHE_MISSES if found is None else metrics.FEATURE_CACHE_HITS)
            if found is not None:
                sequence.encoded[picture.digest] = found
        self._complete(sequence)

    def _add(self, job: _Job, features: list[torch.Tensor]) -> None:
        for digest, computed in zip(job.pictures, features, strict=True):
            self._features.put(digest, computed)
        known = dict(zip(job.pictures, features, strict=True))
        charge_device_time(
            ((s, sum(p.tokens for p in s.prompt.pictures if p.digest in known)) for s in job.sequences), job.seconds
        )
        for sequence in job.sequences:
            sequence.stages_ms["encode"] = sequence.stages_ms.get("encode", 0.0) + job.seconds * 1e3
            sequence.encoded |= {p.digest: known[p.digest] for p in sequence.prompt.pictures if p.digest in known}
            self._complete(sequence)

    def _complete(self, sequence: Sequence) -> None:
        pictures = sequence.prompt.pictures
        if all(picture.digest in sequence.encoded for picture in pictures):
            sequence.features = torch.cat([sequence.encoded[picture.digest] for picture in pictures])
            sequence.encoded, sequence.needs_features = {}, False
            seconds = sequence.stages_ms.setdefault("encode", 0.0) / 1e3
            self._meter.observe(metrics.STAGE_SECONDS, seconds, stage="encode")

    def _encode_singly(self, job: _Job, error: Exception) -> list[tuple[Sequence, Exception]]:
        """After an error: compute the pictures of the job one by one, so that it affects only its cause."""
        if len(job.pictures) == 1:
            for sequence in job.sequences:
                sequence.needs_features = False  # never computed
            return [(sequence, error) for sequence in job.sequences]
        failures: list[tuple[Sequence, Exception]] = []
        for digest, picture in job.pictures.items():
            needed_by = [s for s in job.sequences if s.needs_features and _has(s, digest)]
            if not needed_by:
                continue
            single = _Job({digest: picture}, needed_by, self._model.encode_slices([picture]))
            started = self._clock()
            try:
                with torch.inference_mode():
                    while True:
                        next(single.slices)
            except StopIteration as ended:
                single.seconds = self._clock() - started
                self._add(single, ended.value)
            except Exception as own:
                failures += self._encode_singly(single, own)
        return failures


def _has(sequence: Sequence, digest: str) -> bool:
    return any(picture.digest == digest for picture in sequence.prompt.pictures)


def _by_lane_and_size(sequence: Sequence) -> tuple[bool, int]:
    left = sum(picture.tokens for picture in sequence.prompt.pictures if picture.digest not in sequence.encoded)
    return sequence.prompt.lane == "batch", left
