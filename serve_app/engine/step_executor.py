"""Step executor: runs encode, prefill, decode and sampling on the device, and handles their errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app import metrics
from serve_app.contracts import Picture, Prompt
from serve_app.engine.memory import is_out_of_memory
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.picture_encoder import PictureEncoder
from serve_app.engine.sampling.sampler import PendingTokens, SampledToken, Sampler
from serve_app.engine.sampling.transfer import to_device
from serve_app.engine.scheduler import Chunk, Scheduler
from serve_app.engine.sequence import Sample, Sequence, charge_device_time
from serve_app.engine.structured.masks import MaskFiller
from serve_app.errors import EngineFailed, ServiceError

log = logging.getLogger("glm.engine")


class ModelBackend(Protocol):
    """The model interface of the engine: `SlotRunner` or `PagedRunner` over a checkpoint, a fake in tests."""

    context_tokens: int
    vocab_size: int
    stop_ids: frozenset[int]
    device: torch.device
    # One forward takes rows and chunks together, and may begin before the tokens of the previous one are read.
    mixes_prefill_and_decode: bool

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]: ...

    def page_keys(self, prompt: Prompt) -> list[bytes]:
        """Keys of the pages that the prompt fills; none where pages are not shared."""
        ...

    def prepare(self, sequence: Sequence) -> None:
        """Prepare for a newly admitted sequence, and set which pictures' features it needs."""
        ...

    def device_bytes(self, sequence: Sequence, piece_tokens: int) -> int:
        """Device memory of a sequence at its peak, when a piece of its prompt is computed; 0 on a CPU."""
        ...

    def encode_slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]: ...

    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        """Logits (samples, vocab) after the newest token of `rows`, then the last `logits` tokens of each chunk."""
        ...

    def keep(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
        """Remember the tokens (rows,) sampled for slots (rows,): the next step of a row in flight begins with them."""
        ...

    def erase(self, sequence: Sequence, pages: list[int]) -> None:
        """Clear the cache of a sequence that ends: its slot, or these pages, which no other sequence uses."""
        ...

    def drafts_save_time(self, rows: int, drafts: list[Chunk], with_prompts: bool) -> bool:
        """Whether a step of so many sequences is worth its time with these drafts; it may have prompt chunks too."""
        ...


@dataclass(slots=True)
class Launch:
    """A step that was launched: its samples, their logits and later their sampled tokens."""

    started: float
    rows: list[Sequence]
    chunks: list[Chunk]
    samples: list[Sample] = field(default_factory=list)  # those of a sequence one after the other
    logits: list[torch.Tensor] = field(default_factory=list)
    tokens: PendingTokens | None = None
    failed: list[tuple[Sample, ServiceError]] = field(default_factory=list)


class StepExecutor:
    """Runs the model and the sampler; an error is returned for the sequences of the call and affects no others."""

    def __init__(
        self,
        model: ModelBackend,
        vocabulary: Vocabulary,
        scheduler: Scheduler,
        features: FeatureCache,
        meter: metrics.Meter,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._features = features
        self._meter = meter
        self._clock = clock
        self._encoder = PictureEncoder(model, features, meter, clock)
        self._sampler = Sampler(scheduler.slots, model.vocab_size, model.device, model.stop_ids, vocabulary)
        self._masks = MaskFiller(scheduler.slots, model.vocab_size, model.device)
        self._collected = 0.0  # when the last step's tokens had been read

    def prepare(self, sequence: Sequence) -> None:
        """Prepare the slot of a newly admitted sequence; raises ServiceError if the device fails."""
        try:
            self._sampler.prepare_row(sequence)
            self._model.prepare(sequence)
        except Exception as error:
            raise self.to_service_error(error) from None

    def encode(self, sequences: list[Sequence], image_tokens: int | None) -> list[tuple[Sequence, ServiceError]]:
        """Compute image features that sequences need, of so many tokens, or one job; return those that failed."""
        try:
            failures = self._encoder.advance(sequences, image_tokens)
        except Exception as error:
            self._encoder.drop()
            failures = [(s, error) for s in sequences if s.needs_features and s.slot >= 0]
        return [(s, self.to_service_error(error)) for s, error in failures]

    def draft(self, decoding: list[Sequence], with_prompts: bool) -> tuple[list[Sequence], list[Chunk]]:
        """The sequences that decode one token in this step, and the drafts of the others if they save time."""
        drafts = self._scheduler.drafts(decoding)
        if not drafts or not self._model.drafts_save_time(len(decoding), drafts, with_prompts):
            return decoding, []
        drafted = {draft.sequence for draft in drafts}
        return [sequence for sequence in decoding if sequence not in drafted], drafts

    def launch(self, rows: list[Sequence], chunks: list[Chunk]) -> Launch:
        """Begin a step: the next logits of `rows`, and those of `chunks`."""
        launch = Launch(self._clock(), rows, chunks)
        if not rows and not chunks:
            return launch
        try:
            self._forward(launch, rows, chunks)
        except Exception as error:
            parts: list[tuple[list[Sequence], list[Chunk]]] = [([], [chunk]) for chunk in chunks]
            if rows:
                parts.insert(0, (rows, []))
            if is_out_of_memory(error):
                self._release_memory(error)
            elif len(parts) == 1:
                self._fail(launch, _next_samples(rows, chunks), error)
                return launch
            # Repeated for each part alone, so that the error affects only its cause.
            for part in parts:
                try:
                    self._forward(launch, *part)
                except Exception as own:
                    self._fail(launch, _next_samples(*part), own)
        return launch

    def sample(self, launch: Launch) -> None:
        """Begin sampling from a launched step's logits, for the sequences that still need its result."""
        # Their next step is computed again, from the accepted token.
        dropped = {
            sample.sequence
            for sample in launch.samples
            if not sample.drafted and (sample.sequence.stale or not sample.is_next)
        }
        wanted = [row for row, sample in enumerate(launch.samples) if sample.sequence not in dropped]
        for sample in launch.samples:
            if sample.sequence in dropped:
                sample.sequence.stale, sample.sequence.in_flight = False, sample.sequence.in_flight - 1
        if not wanted:
            launch.samples = []
            return
        try:
            logits = launch.logits[0] if len(launch.logits) == 1 else torch.cat(launch.logits)
            if len(wanted) < len(launch.samples):
                logits = logits.index_select(0, to_device(wanted, self._model.device))
                launch.samples = [launch.samples[row] for row in wanted]
            # A GPU is still computing the logits while the masks are filled.
            launch.tokens = self._sampler.sample(logits, launch.samples, self._masks.fill(launch.samples))
            self._keep(launch.samples, launch.tokens.token_ids)
        except Exception as error:
            self._fail(launch, [sample for sample in launch.samples if not sample.drafted], error)
            launch.samples = []

    def _keep(self, samples: list[Sample], token_ids: torch.Tensor) -> None:
        """Keep the last token of each sequence for a step that is launched before the host has read it."""
        last = {sample.sequence.slot: row for row, sample in enumerate(samples)}
        if len(last) < len(samples):
            token_ids = token_ids.index_select(0, to_device(list(last.values()), self._model.device))
        self._model.keep(to_device(list(last), self._model.device), token_ids)

    def collect(self, launch: Launch) -> list[tuple[Sample, SampledToken | ServiceError]]:
        """Wait for a step's tokens; returns the token of each sample, or the error of its sequence."""
        results: list[tuple[Sample, SampledToken | ServiceError]] = list(launch.failed)
        if launch.tokens is not None:
            try:
                results += zip(launch.samples, launch.tokens.read(), strict=True)
            except Exception as error:
                results += [(sample, self.to_service_error(error)) for sample in launch.samples]
        for sample in launch.samples:
            sample.sequence.in_flight -= 1
        now = self._clock()
        self._measure(launch, now - max(launch.started, self._collected))
        self._collected = now
        return results

    def erase(self, sequence: Sequence) -> None:
        """Clear the cache of a failed sequence: NaN beyond the tokens of the next one would make that fail too."""
        try:
            self._model.erase(sequence, self._scheduler.forget_pages(sequence))
        except Exception as error:  # the sequence fails anyway
            self.to_service_error(error)

    def _forward(self, launch: Launch, rows: list[Sequence], chunks: list[Chunk]) -> None:
        with torch.inference_mode():
            logits = self._model.forward(rows, chunks)
        samples = _next_samples(rows, [])
        for chunk in chunks:
            if chunk.drafted:
                samples += _drafted_samples(chunk)
                continue
            self._scheduler.complete(chunk)
            if chunk.completes:
                samples += _next_samples([], [chunk])
        for sample in samples:
            sample.sequence.in_flight += 1
            sample.sequence.features = None  # the cache holds all that is needed of them now
        launch.samples += samples
        launch.logits.append(logits)

    def _fail(self, launch: Launch, samples: list[Sample], error: Exception) -> None:
        explained = self.to_service_error(error)
        launch.failed += [(sample, explained) for sample in samples]

    def _measure(self, launch: Launch, seconds: float) -> None:
        rows = [(row, 1) for row in launch.rows]
        chunks = [(chunk.sequence, chunk.stop - chunk.start) for chunk in launch.chunks]
        charge_device_time([*rows, *chunks], seconds)
        prompts = [chunk for chunk in launch.chunks if not chunk.drafted]
        for chunk in prompts:
            sequence = chunk.sequence
            sequence.stages_ms["prefill"] = sequence.stages_ms.get("prefill", 0.0) + seconds * 1e3
            self._meter.observe(metrics.STAGE_SECONDS, seconds, stage="prefill")
            if chunk.completes:
                self._meter.count(metrics.PROMPT_TOKENS, sequence.prompt_tokens)
                self._meter.count(metrics.IMAGE_TOKENS, sequence.prompt.image_tokens)
        if decoding := len(launch.rows) + len(launch.chunks) - len(prompts):
            self._meter.observe(metrics.STAGE_SECONDS, seconds, stage="decode_step")
            self._meter.observe(metrics.BATCH_SIZE, decoding)

    def to_service_error(self, error: Exception) -> ServiceError:
        """The error as the caller sees it; out of memory frees what can be freed, any other error is logged."""
        if isinstance(error, ServiceError):
            return error
        if is_out_of_memory(error):
            self._release_memory(error)
            return EngineFailed("The GPU ran out of memory on this request. Smaller pictures need less memory.")
        log.error("The model failed on a request.", exc_info=error)
        return EngineFailed("The model failed on this request.")

    def _release_memory(self, error: Exception) -> None:
        error.__traceback__ = None  # its frames hold what the failed computation had allocated
        self._meter.count(metrics.OUT_OF_MEMORY)
        self._features.clear()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()


def _next_samples(rows: list[Sequence], chunks: list[Chunk]) -> list[Sample]:
    sequences = [*rows, *(chunk.sequence for chunk in chunks)]
    return [Sample(sequence, len(sequence.generated) + sequence.in_flight) for sequence in sequences]


def _drafted_samples(chunk: Chunk) -> list[Sample]:
    """A sample after each token of a draft."""
    first = chunk.start - chunk.sequence.prompt_tokens + 1
    return [
        Sample(chunk.sequence, first + place, chunk.drafted[1 : place + 1], newest)
        for place, newest in enumerate(chunk.drafted)
    ]
