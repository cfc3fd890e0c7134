"""Image features of prompts' pictures: from the cache, or computed in small jobs between steps.

A job is some pictures that are computed together. The prompt with the fewest image tokens left comes first, the oldest
one in every fourth job: a prompt of many pictures does not delay others, and none waits without end. The batch lane
comes last, except in every 32nd job, where it comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import torch

from serve_app import metrics
from serve_app.contracts import Picture
from serve_app.engine.fairness import BATCH_SHARE
from serve_app.engine.memory import is_out_of_memory
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.sequence import Sequence, charge_device_time

JOB_TOKENS_GPU = 4096  # image tokens of a job: enough to fill a GPU with small pictures
JOB_TOKENS_CPU = 512
OLDEST_EVERY = 4  # jobs
BATCH_EVERY = round(1 / BATCH_SHARE)  # jobs


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
    tokens_left: int  # image tokens that the slices to come are worth
    seconds: float = 0.0
    done: bool = False

    @property
    def waiting(self) -> list[Sequence]:
        """Its sequences that still need features; those that were cancelled or expired hold no slot."""
        return [sequence for sequence in self.sequences if sequence.needs_features and sequence.slot >= 0]


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
        self._failures: dict[Sequence, Exception] = {}  # of this call of `advance`

    def advance(self, sequences: list[Sequence], image_tokens: int | None) -> list[tuple[Sequence, Exception]]:
        """Compute features for `sequences`, the oldest first; returns those that failed.

        It stops when the slices were worth `image_tokens`; None: after one job.
        """
        self._failures = {}
        if self._job is not None and not self._job.waiting:
            self.drop()
        encoded = 0
        while image_tokens is None or encoded < image_tokens:
            if self._job is None:
                self._job = self._next_job([s for s in sequences if s.needs_features and s.slot >= 0])
            if self._job is None:
                break
            encoded += self._continue(self._job, None if image_tokens is None else image_tokens - encoded)
            if self._job.done:
                self._job = None
            if image_tokens is None:
                break
        return list(self._failures.items())

    def drop(self) -> None:
        """Forget the job that was begun."""
        self._job = None

    def _continue(self, job: _Job, image_tokens: int | None) -> int:
        """Compute slices worth `image_tokens`, or all that are left; returns the image tokens they were worth."""
        before = job.tokens_left
        try:
            self._compute(job, image_tokens)
        except Exception as error:
            job.done, job.tokens_left = True, 0
            self._encode_singly(job, error)
        return before - job.tokens_left

    def _compute(self, job: _Job, image_tokens: int | None = None) -> None:
        started, before = self._clock(), job.tokens_left
        with torch.inference_mode():
            while image_tokens is None or before - job.tokens_left < image_tokens:
                try:
                    job.tokens_left -= next(job.slices)
                except StopIteration as ended:  # the last slice is not yielded
                    job.done, job.tokens_left = True, min(job.tokens_left, 0)
                    features: list[torch.Tensor] = ended.value
                    break
        job.seconds += self._clock() - started
        if job.done:
            self._add(job, features)

    def _next_job(self, waiting: list[Sequence]) -> _Job | None:
        """The next pictures to compute; None if the cache had all that were missing."""
        for sequence in waiting:
            self._look_up(sequence)
        chosen: dict[str, Picture] = {}
        tokens = 0
        for sequence in self._in_order([s for s in waiting if s.needs_features and s not in self._failures]):
            for picture in sequence.needed:
                if picture.digest in sequence.encoded or picture.digest in chosen:
                    continue
                if chosen and tokens + picture.tokens > self._job_tokens:
                    return self._job_of(chosen, waiting)
                chosen[picture.digest] = picture
                tokens += picture.tokens
        return self._job_of(chosen, waiting) if chosen else None

    def _in_order(self, waiting: list[Sequence]) -> list[Sequence]:
        """The sequences in the order in which the next job takes their pictures."""
        if self._jobs % BATCH_EVERY == BATCH_EVERY - 1:
            return sorted(waiting, key=lambda sequence: sequence.prompt.lane != "batch")
        return waiting if self._jobs % OLDEST_EVERY == 0 else sorted(waiting, key=_by_lane_and_size)

    def _job_of(self, pictures: dict[str, Picture], waiting: list[Sequence]) -> _Job:
        self._jobs += 1
        needed_by = [s for s in waiting if s.needs_features and s not in self._failures]
        return self._new_job(pictures, [s for s in needed_by if any(p.digest in pictures for p in s.needed)])

    def _new_job(self, pictures: dict[str, Picture], sequences: list[Sequence]) -> _Job:
        images = list(pictures.values())
        return _Job(pictures, sequences, self._slices(images), sum(picture.tokens for picture in images))

    def _slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        """The model's slices; an error at their preparation, as of the upload of pixels, is one of the first slice."""
        return (yield from self._model.encode_slices(pictures))

    def _look_up(self, sequence: Sequence) -> None:
        """Take from the cache what it has of a sequence's pictures, once."""
        if sequence.looked_up:
            return
        sequence.looked_up = True
        for picture in sequence.needed:
            found = sequence.encoded.get(picture.digest)
            if found is None:
                found = self._features.get(picture.digest)
            self._meter.count(metrics.FEATURE_CACHE_MISSES if found is None else metrics.FEATURE_CACHE_HITS)
            if found is not None:
                sequence.encoded[picture.digest] = found
        self._complete(sequence)

    def _add(self, job: _Job, features: list[torch.Tensor]) -> None:
        known = dict(zip(job.pictures, features, strict=True))
        charge_device_time(
            ((s, sum(p.tokens for p in s.needed if p.digest in known)) for s in job.sequences), job.seconds
        )
        for sequence in job.waiting:
            sequence.stages_ms["encode"] = sequence.stages_ms.get("encode", 0.0) + job.seconds * 1e3
            sequence.encoded |= {p.digest: known[p.digest] for p in sequence.needed if p.digest in known}
            self._complete(sequence)
        for digest, computed in known.items():  # last: without memory for the copy, the sequences have their features
            self._features.put(digest, computed)

    def _complete(self, sequence: Sequence) -> None:
        pictures = sequence.needed
        if not all(picture.digest in sequence.encoded for picture in pictures):
            return
        try:
            sequence.features = torch.cat([sequence.encoded[picture.digest] for picture in pictures])
        except Exception as error:
            self._failures[sequence] = error
            return
        sequence.encoded, sequence.needs_features = {}, False
        seconds = sequence.stages_ms.setdefault("encode", 0.0) / 1e3
        self._meter.observe(metrics.STAGE_SECONDS, seconds, stage="encode")

    def _encode_singly(self, job: _Job, error: Exception) -> None:
        """After an error: compute the pictures of the job one by one, so that it affects only its cause."""
        if is_out_of_memory(error):
            error.__traceback__ = None  # its frames hold what the job had allocated
        if len(job.pictures) == 1:
            self._failures |= {s: error for s in job.waiting if s not in self._failures}
            return
        for digest, picture in job.pictures.items():
            needed_by = [s for s in job.waiting if s not in self._failures and _has(s, digest)]
            if needed_by:
                self._continue(self._new_job({digest: picture}, needed_by), None)


def _has(sequence: Sequence, digest: str) -> bool:
    return any(picture.digest == digest for picture in sequence.needed)


def _by_lane_and_size(sequence: Sequence) -> tuple[bool, int]:
    left = sum(picture.tokens for picture in sequence.needed if picture.digest not in sequence.encoded)
    return sequence.prompt.lane == "batch", left
