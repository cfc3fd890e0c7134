"""The engine's loop: admit, encode, prefill, decode, tell; again.

It runs on a thread of its own and owns all state behind it. Others talk to it through two calls,
`submit` and `cancel`, which only leave a note; the loop reads the notes at the start of a step, so a
cancelled request frees its slot within one step. Events are handed out once a step, all together.
Whatever goes wrong with one request ends that request, with one terminal event, and no other.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app import metrics
from serve_app.contracts import Delta, Event, Finished, FinishReason, Picture, Prompt, Started
from serve_app.engine.features import FeatureCache
from serve_app.engine.sampling import Sampler
from serve_app.engine.scheduler import Chunk, Scheduler
from serve_app.engine.sequence import Sequence, Sink
from serve_app.engine.text import TextStream, Vocabulary
from serve_app.errors import ContextTooLong, DeadlineExceeded, EngineFailed, ServiceError

log = logging.getLogger("glm.engine")

Outbox = list[tuple[Sink, Event | ServiceError]]


class SlotModel(Protocol):
    """What the loop asks of a model; `Runner` over a checkpoint, a fake in tests."""

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


class EngineLoop:
    """Answers prompts together; `step` does one round, `run` goes on until `stop`."""

    def __init__(
        self,
        model: SlotModel,
        vocabulary: Vocabulary,
        scheduler: Scheduler,
        features: FeatureCache,
        meter: metrics.Meter,
        hand_out: Callable[[Outbox], None] | None = None,
        stream_interval_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._scheduler = scheduler
        self._features = features
        self._meter = meter
        self._hand_out = hand_out or _hand_out_here
        self._stream_interval_s = stream_interval_s
        self._clock = clock
        self._sampler = Sampler(scheduler.slots, model.vocab_size, model.device)
        self._notes: deque[Sequence | str] = deque()  # a sequence to add, or the id of one to cancel
        self._known: dict[str, Sequence] = {}
        self._outbox: Outbox = []
        self._woken = threading.Event()
        self._stopping = False
        self.failure: BaseException | None = None  # set once, when the loop itself died

    # -- called from other threads

    def submit(self, prompt: Prompt, sink: Sink) -> None:
        """Take in a prompt; `sink` gets its events, from the loop's thread or as `hand_out` decides."""
        self._notes.append(self._sequence(prompt, sink))
        self._woken.set()
        if self._stopping or self.failure is not None:  # after the note: either the loop reads it or we say so
            raise EngineFailed("the engine has stopped; the replica is being replaced")

    def cancel(self, request_id: str) -> None:
        """Forget a request; unknown ids are ignored, the request may just have ended."""
        self._notes.append(request_id)
        self._woken.set()

    def stop(self) -> None:
        """Let `run` return after the step in flight."""
        self._stopping = True
        self._woken.set()

    # -- the loop's own thread

    def run(self) -> None:
        """Step until stopped; if the loop itself breaks, everyone is told and `failure` is set."""
        try:
            while not self._stopping:
                if not self.step():
                    self._woken.wait()
                    self._woken.clear()
        except BaseException as error:
            log.exception("the engine loop died")
            self.failure = error
            self._fail_all("the engine stopped; the replica is being replaced")
            return
        self._fail_all("the engine is shutting down")

    def step(self) -> bool:
        """One round; False when there was nothing to do."""
        self._read_notes()
        self._expire()
        for sequence in self._scheduler.admit():
            self._begin(sequence)
        busy = not self._scheduler.idle
        if busy:
            for chunk in self._scheduler.chunks():
                self._prefill(chunk)
            self._flush()  # first tokens do not wait for the others' next one
            self._decode()
        self._flush()
        return busy

    def _sequence(self, prompt: Prompt, sink: Sink) -> Sequence:
        positions, delta = self._model.positions(prompt)
        sequence = Sequence(
            prompt=prompt,
            sink=sink,
            text=TextStream(self._vocabulary, prompt.sampling.stop),
            seed=secrets.randbits(63) if prompt.sampling.seed is None else prompt.sampling.seed,
            arrived=self._clock(),
            positions=positions,
            position_delta=delta,
        )
        if sequence.reserved > self._model.context_tokens:
            raise ContextTooLong(
                f"the prompt has {sequence.prompt_tokens} tokens and the answer may have {sequence.max_tokens}; "
                f"together at most {self._model.context_tokens} fit",
                param="messages",
            )
        return sequence

    def _read_notes(self) -> None:
        while self._notes:
            note = self._notes.popleft()
            if isinstance(note, str):
                if (sequence := self._known.get(note)) is not None:
                    self._retire(sequence)
                continue
            try:
                self._scheduler.add(note)
                self._known[note.id] = note
            except ServiceError as error:
                self._tell(note, error)

    def _expire(self) -> None:
        now = self._clock()
        for sequence in [s for s in self._known.values() if now > s.deadline]:
            self._fail(sequence, DeadlineExceeded(f"no whole answer within {sequence.prompt.deadline_s:g} seconds"))

    def _begin(self, sequence: Sequence) -> None:
        waited = self._clock() - sequence.arrived
        sequence.stages_ms["queue"] = waited * 1e3
        self._meter.observe(metrics.STAGE_SECONDS, waited, stage="queue")
        self._sampler.begin(sequence)
        stages = {**sequence.prompt.stages_ms, **sequence.stages_ms}
        self._tell(sequence, Started(sequence.prompt_tokens, sequence.prompt.image_tokens, stages))

    def _prefill(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        try:
            if chunk.start == 0 and sequence.prompt.pictures:
                with _Stage(self, sequence, "encode"):
                    sequence.features = torch.cat([self._encode(picture) for picture in sequence.prompt.pictures])
            with _Stage(self, sequence, "prefill"):
                logits = self._model.prefill(chunk)
                sequence.prefilled = chunk.stop
                drawn = self._sampler.draw(logits, [sequence]) if logits is not None else []
        except Exception as error:
            self._fail(sequence, self._explain(error))
            return
        if chunk.completes:
            sequence.features = None  # the cache holds all that is needed of them now
            self._meter.count(metrics.PROMPT_TOKENS, sequence.prompt_tokens)
            self._meter.count(metrics.IMAGE_TOKENS, sequence.prompt.image_tokens)
            sequence.first_token_at = self._clock()
            self._take(sequence, drawn[0])

    def _encode(self, picture: Picture) -> torch.Tensor:
        features = self._features.get(picture.digest)
        if features is not None:
            self._meter.count(metrics.FEATURE_CACHE_HITS)
            return features
        self._meter.count(metrics.FEATURE_CACHE_MISSES)
        features = self._model.encode(picture)
        self._features.put(picture.digest, features)
        return features

    def _decode(self) -> None:
        sequences = self._scheduler.decoding()
        if not sequences:
            return
        started = self._clock()
        try:
            drawn = self._sampler.draw(self._decode_once_more_if_memory_is_short(sequences), sequences)
        except Exception as error:
            for sequence in sequences:
                self._fail(sequence, self._explain(error))
            return
        self._meter.observe(metrics.STAGE_SECONDS, self._clock() - started, stage="decode_step")
        self._meter.observe(metrics.BATCH_SIZE, len(sequences))
        for sequence, token_id in zip(sequences, drawn, strict=True):
            self._take(sequence, token_id)

    def _decode_once_more_if_memory_is_short(self, sequences: list[Sequence]) -> torch.Tensor:
        try:
            return self._model.decode(sequences)
        except torch.OutOfMemoryError:
            self._release_memory()
            return self._model.decode(sequences)

    def _take(self, sequence: Sequence, token_id: int | None) -> None:
        """Add a drawn token to an answer, tell its text, end the answer if it is complete."""
        if token_id is None:
            self._fail(sequence, EngineFailed("the model produced values that are not numbers for this request"))
            return
        sequence.generated.append(token_id)
        self._meter.count(metrics.OUTPUT_TOKENS)
        if token_id in self._model.stop_ids:
            self._finish(sequence, "stop", sequence.text.flush())
            return
        text = sequence.text.push(token_id)
        if sequence.text.stopped:
            self._finish(sequence, "stop", text)
        elif len(sequence.generated) >= sequence.max_tokens:
            self._finish(sequence, "length", text + sequence.text.flush())
        else:
            sequence.untold += text
            if self._due(sequence):
                self._tell_text(sequence)

    def _finish(self, sequence: Sequence, reason: FinishReason, text: str) -> None:
        sequence.stages_ms["decode_steps"] = (self._clock() - sequence.first_token_at) * 1e3
        sequence.untold += text
        self._tell_text(sequence)
        stages = {**sequence.prompt.stages_ms, **sequence.stages_ms}
        self._tell(sequence, Finished(reason, sequence.usage, stages))
        self._retire(sequence)

    def _fail(self, sequence: Sequence, error: ServiceError) -> None:
        self._tell(sequence, error)
        self._retire(sequence)

    def _fail_all(self, why: str) -> None:
        waiting = [note for note in self._notes if isinstance(note, Sequence)]
        self._notes.clear()
        for sequence in [*self._known.values(), *waiting]:
            self._tell(sequence, EngineFailed(why))
        self._known.clear()
        self._flush()

    def _explain(self, error: Exception) -> ServiceError:
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, torch.OutOfMemoryError):
            self._release_memory()
            return EngineFailed("the GPU ran out of memory on this request; smaller pictures need less")
        log.error("the model failed on a request", exc_info=error)
        return EngineFailed("the model failed on this request")

    def _release_memory(self) -> None:
        self._meter.count(metrics.OUT_OF_MEMORY)
        self._features.clear()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _retire(self, sequence: Sequence) -> None:
        del self._known[sequence.id]
        self._scheduler.retire(sequence)

    def _due(self, sequence: Sequence) -> bool:
        """Whether the next piece may go out: the first at once, then one an interval.

        Each piece costs every process on its way more than a token costs a small model.
        """
        if not sequence.tokens_told:
            return True
        return sequence.prompt.stream and self._clock() - sequence.told_at >= self._stream_interval_s

    def _tell_text(self, sequence: Sequence) -> None:
        """Tell the text that waits, with the tokens behind it."""
        if sequence.untold:
            self._tell(sequence, Delta(sequence.untold, len(sequence.generated) - sequence.tokens_told))
            sequence.untold, sequence.told_at = "", self._clock()
            sequence.tokens_told = len(sequence.generated)

    def _tell(self, sequence: Sequence, event: Event | ServiceError) -> None:
        self._outbox.append((sequence.sink, event))

    def _flush(self) -> None:
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            self._hand_out(outbox)

    def measure(self) -> None:
        """Set the gauges of slots, queue and caches; called at leisure, from any thread."""
        scheduler = self._scheduler
        self._meter.set(metrics.SLOTS, scheduler.slots)
        self._meter.set(metrics.SLOTS_USED, len(scheduler.running))
        self._meter.set(metrics.WAITING, len(scheduler.waiting))
        self._meter.set(metrics.KV_TOKENS, scheduler.slots * self._model.context_tokens)
        self._meter.set(metrics.KV_TOKENS_USED, scheduler.cached_tokens)
        self._meter.set(metrics.FEATURE_CACHE_BYTES, self._features.bytes)

    def slots_used(self) -> int:
        """Slots that hold a sequence now (read from any thread)."""
        return len(self._scheduler.running)


class _Stage:
    """Adds the wall time of a block to a sequence's stage and to the histogram of that stage."""

    def __init__(self, loop: EngineLoop, sequence: Sequence, stage: str) -> None:
        self._loop, self._sequence, self._stage = loop, sequence, stage

    def __enter__(self) -> None:
        self._started = self._loop._clock()

    def __exit__(self, *_: object) -> None:
        seconds = self._loop._clock() - self._started
        stages = self._sequence.stages_ms
        stages[self._stage] = stages.get(self._stage, 0.0) + seconds * 1e3
        self._loop._meter.observe(metrics.STAGE_SECONDS, seconds, stage=self._stage)


def _hand_out_here(outbox: Outbox) -> None:
    for sink, event in outbox:
        sink(event)
