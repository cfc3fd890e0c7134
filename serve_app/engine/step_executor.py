"""Step executor: runs encode, prefill, decode and sampling on the device, and handles their errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app import metrics
from serve_app.contracts import Picture, Prompt
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.sampling.sampler import SampledToken, Sampler
from serve_app.engine.scheduler import Chunk
from serve_app.engine.sequence import Sequence
from serve_app.engine.structured.masks import MaskFiller
from serve_app.errors import EngineFailed, ServiceError

log = logging.getLogger("glm.engine")


class ModelBackend(Protocol):
    """The model interface of the engine: `ModelRunner` for a checkpoint, a fake in tests."""

    context_tokens: int

    @property
    def vocab_size(self) -> int: ...

    @property
    def stop_ids(self) -> frozenset[int]: ...

    @property
    def device(self) -> torch.device: ...

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]: ...

    def encode(self, picture: Picture) -> torch.Tensor: ...

    def prefill(self, chunk: Chunk) -> torch.Tensor | None: ...

    def decode(self, sequences: list[Sequence]) -> torch.Tensor: ...


class StepExecutor:
    """Runs the model and the sampler; an error is returned for the sequences of the call and affects no others."""

    def __init__(
        self,
        model: ModelBackend,
        vocabulary: Vocabulary,
        slots: int,
        features: FeatureCache,
        meter: metrics.Meter,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._features = features
        self._meter = meter
        self._clock = clock
        self._sampler = Sampler(slots, model.vocab_size, model.device, model.stop_ids, vocabulary)
        self._masks = MaskFiller(slots, model.vocab_size, model.device)

    def prepare(self, sequence: Sequence) -> None:
        """Prepare the slot of a newly admitted sequence."""
        self._sampler.prepare_row(sequence)

    def prefill(self, chunk: Chunk) -> SampledToken | ServiceError | None:
        """Compute a chunk of a prompt; returns the first token of the answer after the last chunk."""
        sequence = chunk.sequence
        try:
            if chunk.start == 0 and sequence.prompt.pictures:
                with self._stage(sequence, "encode"):
                    sequence.features = torch.cat([self._encode(picture) for picture in sequence.prompt.pictures])
            with self._stage(sequence, "prefill"):
                logits = self._model.prefill(chunk)
                sequence.prefilled = chunk.stop
                sampled = self._sample(logits, [sequence])[0] if logits is not None else None
        except Exception as error:
            return self._to_service_error(error)
        if chunk.completes:
            sequence.features = None  # no longer needed: the KV cache holds the prompt
            self._meter.count(metrics.PROMPT_TOKENS, sequence.prompt_tokens)
            self._meter.count(metrics.IMAGE_TOKENS, sequence.prompt.image_tokens)
        return sampled

    def decode(self, sequences: list[Sequence]) -> list[SampledToken | ServiceError] | ServiceError:
        """The next token of every sequence; a single error if the batch failed."""
        started = self._clock()
        try:
            sampled = self._sample(self._decode_with_retry(sequences), sequences)
        except Exception as error:
            return self._to_service_error(error)
        self._meter.observe(metrics.STAGE_SECONDS, self._clock() - started, stage="decode_step")
        self._meter.observe(metrics.BATCH_SIZE, len(sequences))
        return sampled

    def _sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[SampledToken | ServiceError]:
        # The masks are filled while a GPU computes the logits.
        return self._sampler.sample(logits, sequences, self._masks.fill(sequences))

    def _encode(self, picture: Picture) -> torch.Tensor:
        features = self._features.get(picture.digest)
        if features is not None:
            self._meter.count(metrics.FEATURE_CACHE_HITS)
            return features
        self._meter.count(metrics.FEATURE_CACHE_MISSES)
        features = self._model.encode(picture)
        self._features.put(picture.digest, features)
        return features

    def _decode_with_retry(self, sequences: list[Sequence]) -> torch.Tensor:
        try:
            return self._model.decode(sequences)
        except torch.OutOfMemoryError:
            self._release_memory()
            return self._model.decode(sequences)

    def _to_service_error(self, error: Exception) -> ServiceError:
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, torch.OutOfMemoryError):
            self._release_memory()
            return EngineFailed("The GPU ran out of memory on this request. Smaller pictures need less memory.")
        log.error("The model failed on a request.", exc_info=error)
        return EngineFailed("The model failed on this request.")

    def _release_memory(self) -> None:
        self._meter.count(metrics.OUT_OF_MEMORY)
        self._features.clear()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def _stage(self, sequence: Sequence, stage: str) -> Iterator[None]:
        """Add the wall time of a block to the stage of the sequence and to the histogram of the stage."""
        started = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - started
            sequence.stages_ms[stage] = sequence.stages_ms.get(stage, 0.0) + seconds * 1e3
            self._meter.observe(metrics.STAGE_SECONDS, seconds, stage=stage)
