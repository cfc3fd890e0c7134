"""Engine loop: admit, encode, prefill, decode and emit events, step by step.

It runs on its own thread, which owns all engine state. Other threads call `submit` and `cancel`, which put
a message into the inbox. The loop reads the inbox at the start of each step, so a cancelled request frees
its slot within one step. The events of a step are dispatched together. An error of one request ends that
request with one terminal event and does not affect others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from serve_app import metrics
from serve_app.contracts import Finished, FinishReason, PictureSeen, Started
from serve_app.engine.admission import Admission
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.sampling.sampler import SampledToken
from serve_app.engine.scaling import KV_DEMAND, TOKENS_IN_FLIGHT, AnswerLengths, tokens_ahead
from serve_app.engine.scheduler import Chunk, Scheduler
from serve_app.engine.sequence import Sequence, Sink
from serve_app.engine.step_executor import Launch, ModelBackend, StepExecutor
from serve_app.engine.structured.grammar_sandbox import DEFAULT_LIMITS
from serve_app.engine.unsent_pixels import ask_for_pixels, find_unsent, surely_missing
from serve_app.errors import DeadlineExceeded, EngineFailed, ServiceError
from serve_app.replies import EngineEvent, PixelsNeeded
from serve_app.settings import EngineSettings

log = logging.getLogger("glm.engine")

BUDGETS_WITHOUT_DECODING = 4  # prefill budgets of a step while no interactive sequence decodes
# Prefill budgets of a step on a CPU while a long prompt is read: new requests and decoding ones wait for the end of a
# step. Short prompts are read in larger steps, which take 5 to 10 % less CPU.
_BUDGETS_OF_LONG_PROMPTS, _BUDGETS_OF_LONG_PROMPTS_DECODING = 0.5, 0.25

Outbox = list[tuple[Sink, EngineEvent | ServiceError]]


class EngineLoop:
    """Continuous batching; `step` runs one step, `run` runs steps until `stop`."""

    def __init__(
        self,
        model: ModelBackend,
        vocabulary: Vocabulary,
        scheduler: Scheduler,
        features: FeatureCache,
        meter: metrics.Meter,
        dispatch: Callable[[Outbox], None] | None = None,
        stream_interval_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        settings: EngineSettings = DEFAULT_LIMITS,
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._features = features
        self._meter = meter
        self._dispatch = dispatch or deliver
        self._stream_interval_s = stream_interval_s
        self._clock = clock
        self._executor = StepExecutor(model, vocabulary, scheduler, features, meter, clock)
        self._encodes = False  # whether the last step in parts encoded pictures
        self._launched: Launch | None = None  # the step whose tokens have not been read
        self.admission = Admission(vocabulary, model, settings)
        self._inbox: deque[Sequence | str] = deque()  # a sequence to add, or the id of a request to cancel
        self._active: dict[str, Sequence] = {}
        self._answer_lengths = AnswerLengths()
        self._outbox: Outbox = []
        self._wake = threading.Event()
        self._stopping = False
        self.failure: BaseException | None = None  # set once, when the loop failed

    # -- called from other threads

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence of `admission`; its sink gets the events, from the loop's thread or from `dispatch`.

        Nothing is queued if pixels are surely missing: the sink gets `PixelsNeeded`. Raises EngineFailed after the end.
        """
        sequence.arrived = self._clock()
        sequence.page_keys = self._model.page_keys(sequence.prompt)
        if not sequence.prompt.has_all_pixels:
            others = [*self._active.values(), *(one for one in list(self._inbox) if isinstance(one, Sequence))]
            if needed := surely_missing(sequence, self._features, self._scheduler, others, self._meter):
                sequence.sink(needed)
                return
        self._inbox.append(sequence)
        self._wake.set()
        if self._stopping or self.failure is not None:  # checked last: either the loop reads the inbox or we raise
            raise EngineFailed("The engine has stopped; the replica is being replaced.")

    def cancel(self, request_id: str) -> None:
        """End a request without a terminal event; an unknown id is ignored, since the request may just have ended."""
        self._inbox.append(request_id)
        self._wake.set()

    def stop(self) -> None:
        """Make `run` return after the current step."""
        self._stopping = True
        self._wake.set()

    # -- the loop's thread

    def run(self) -> None:
        """Run steps until `stop`; if the loop itself fails, all requests fail and `failure` is set."""
        try:
            while not self._stopping:
                if not self.step():
                    self._wake.wait()
                    self._wake.clear()
        except BaseException as error:
            log.exception("The engine loop failed.")
            self.failure = error
            self._fail_all("The engine has stopped; the replica is being replaced.")
            return
        self._fail_all("The engine is shutting down.")

    def step(self) -> bool:
        """Run one step; False if there was nothing to do."""
        added = self._read_inbox()
        self._expire()
        for sequence in self._scheduler.admit():
            self._start(sequence)
        for sequence in added:
            waits = self._active.get(sequence.id) is sequence and sequence.slot < 0
            if waits and (needed := ask_for_pixels(sequence, self._meter)):
                self._ask_for_pixels(sequence, needed)
        busy = self._launched is not None or not self._scheduler.idle
        if busy:
            if self._model.mixes_prefill_and_decode:
                self._step_ahead()
            else:
                self._step_in_parts()
        self._flush()
        return busy

    def _step_ahead(self) -> None:
        """One forward pass for rows and chunks, launched before the tokens of the previous step are read."""
        rows = self._scheduler.decoding()
        interactive = _any_interactive(rows)
        budget = self._scheduler.prefill_tokens * (1 if interactive else BUDGETS_WITHOUT_DECODING)
        self._encode(budget * 3 // 4)
        # Rows are part of the budget: products of 1,024 rows take less time for each than those of 1,088.
        rows, drafts = self._executor.draft(rows, with_prompts=bool(self._scheduler.ready_prompts))
        prompt_tokens = max(budget - len(rows) - sum(len(draft.drafted) for draft in drafts), budget // 2)
        chunks = drafts + self._scheduler.chunks(prompt_tokens)
        launch = self._executor.launch(rows, chunks)
        if self._launched is not None:
            self._collect(self._launched)
            self._flush()  # streams do not wait for the sampling below
        self._executor.sample(launch)
        self._launched = launch if rows or chunks else None

    def _step_in_parts(self) -> None:
        """One forward pass for each chunk, then one for all rows; while rows decode, pictures and chunks take turns."""
        decoding = _any_interactive(self._scheduler.decoding())
        self._encodes = any(s.needs_features for s in self._scheduler.running) and not (decoding and self._encodes)
        on_cpu = self._model.device.type == "cpu"
        if self._encodes:
            self._encode(None if on_cpu else self._scheduler.prefill_tokens * 3 // 4)
        if not (decoding and self._encodes):
            budgets = 1.0
            if on_cpu and self._scheduler.reads_long_prompt:
                budgets = _BUDGETS_OF_LONG_PROMPTS_DECODING if decoding else _BUDGETS_OF_LONG_PROMPTS
            budget = int(self._scheduler.prefill_tokens * budgets)
            for chunk in self._scheduler.chunks(budget):
                self._run_part([], [chunk])
        self._flush()  # first tokens do not wait for the decode step
        if any(decoding_now := self._executor.draft(self._scheduler.decoding(), with_prompts=False)):
            self._run_part(*decoding_now)

    def _encode(self, image_tokens: int | None) -> None:
        for sequence, error in self._executor.encode(self._scheduler.by_lane, image_tokens):
            if sequence.slot >= 0:  # else it was cancelled or it expired meanwhile
                self._fail(sequence, error)

    def _run_part(self, rows: list[Sequence], chunks: list[Chunk]) -> None:
        launch = self._executor.launch(rows, chunks)
        self._executor.sample(launch)
        self._collect(launch)

    def _collect(self, launch: Launch) -> None:
        for sample, result in self._executor.collect(launch):
            if sample.is_next:  # else it was cancelled meanwhile, or follows a drafted token that was not sampled
                self._append_token(sample.sequence, result)

    def _read_inbox(self) -> list[Sequence]:
        """Cancel and add what the inbox says; returns the sequences that were added."""
        added = []
        while self._inbox:
            message = self._inbox.popleft()
            if isinstance(message, str):
                if (sequence := self._active.get(message)) is not None:
                    self._retire(sequence)
                continue
            try:
                self._scheduler.add(message)
                self._active[message.id] = message
                added.append(message)
            except ServiceError as error:
                self._emit(message, error)
        return added

    def _expire(self) -> None:
        now = self._clock()
        for sequence in [s for s in self._active.values() if now > s.deadline]:
            limit_s = sequence.prompt.deadline_s
            self._fail(sequence, DeadlineExceeded(f"The answer was not complete within {limit_s:g} s, its limit."))

    def _start(self, sequence: Sequence) -> None:
        waited = self._clock() - sequence.arrived
        sequence.stages_ms["queue"] = waited * 1e3
        self._meter.observe(metrics.STAGE_SECONDS, waited, stage="queue")
        try:
            self._executor.prepare(sequence)
        except ServiceError as error:
            self._fail(sequence, error)
            return
        others = (other for other in self._active.values() if other is not sequence)
        if (needed := find_unsent(sequence, self._features, others, self._meter)) is not None:
            self._ask_for_pixels(sequence, needed)
            return
        prompt = sequence.prompt
        seen = tuple(
            PictureSeen(picture.original_size, picture.seen_size, picture.tokens, picture.source, picture.digest)
            for picture in prompt.pictures
        )
        stages = {**prompt.stages_ms, **sequence.stages_ms}
        started = Started(
            sequence.prompt_tokens, prompt.image_tokens, stages, seen, prompt.ignored_fields, prompt.clipped_max_tokens
        )
        self._meter.count(metrics.PREFIX_TOKENS, sequence.prefilled)
        self._emit(sequence, started)

    def _append_token(self, sequence: Sequence, sampled: SampledToken | ServiceError) -> None:
        """Append a sampled token to its sequence, emit deltas that are due, finish a complete answer."""
        if isinstance(sampled, ServiceError):
            self._executor.erase(sequence)
            self._fail(sequence, sampled)
            return
        self._meter.count(metrics.OUTPUT_TOKENS)
        if not sequence.generated:
            sequence.first_token_at = self._clock()
        try:
            reason = sequence.append_token(sampled.token_id, sampled.logprob)
        except Exception as error:  # one answer that can't be parsed must not end the others
            self._fail(sequence, self._executor.to_service_error(error))
            return
        sequence.stale = sequence.in_flight > 0 and sequence.generated[-1] != sampled.token_id
        if reason is not None:
            self._finish(sequence, reason)
        elif self._emission_due(sequence):
            self._emit_deltas(sequence)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.stages_ms["decode_steps"] = (self._clock() - sequence.first_token_at) * 1e3
        self._answer_lengths.add(len(sequence.generated))
        self._emit_deltas(sequence)
        stages = {**sequence.prompt.stages_ms, **sequence.stages_ms}
        piece_tokens = min(sequence.prompt_tokens, self._scheduler.prefill_tokens)
        device_bytes = self._model.device_bytes(sequence, piece_tokens)
        boxed, stop = tuple(sequence.parser.boxed), sequence.parser.stop_strings.found
        device_ms = round(sequence.device_ms, 3)
        self._emit(sequence, Finished(reason, sequence.usage, stages, boxed, stop, device_bytes, device_ms))
        self._retire(sequence)

    def _fail(self, sequence: Sequence, error: ServiceError) -> None:
        self._emit(sequence, error)
        self._retire(sequence)

    def _ask_for_pixels(self, sequence: Sequence, needed: PixelsNeeded) -> None:
        """End a sequence before its first event; the pipeline sends the prompt again, with all pixels."""
        self._emit(sequence, needed)
        self._retire(sequence)

    def _fail_all(self, why: str) -> None:
        waiting = [message for message in self._inbox if isinstance(message, Sequence)]
        self._inbox.clear()
        for sequence in [*self._active.values(), *waiting]:
            self._emit(sequence, EngineFailed(why))
        self._active.clear()
        self._flush()

    def _retire(self, sequence: Sequence) -> None:
        del self._active[sequence.id]
        self._scheduler.retire(sequence)

    def _emission_due(self, sequence: Sequence) -> bool:
        """Whether deltas are emitted now: the first at once, then once an interval, without `stream` at the end.

        Each event costs the processes on its path more than a token costs a small model.
        """
        if not sequence.emitted:
            return True
        return sequence.prompt.stream and self._clock() - sequence.emitted_at >= self._stream_interval_s

    def _emit_deltas(self, sequence: Sequence) -> None:
        for delta in sequence.parser.take_deltas():
            self._emit(sequence, delta)
            sequence.emitted, sequence.emitted_at = True, self._clock()

    def _emit(self, sequence: Sequence, event: EngineEvent | ServiceError) -> None:
        self._outbox.append((sequence.sink, event))

    def _flush(self) -> None:
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            self._dispatch(outbox)

    def measure(self) -> None:
        """Set the gauges of slots, queue and caches (from any thread)."""
        scheduler = self._scheduler
        self._meter.set(metrics.SLOTS, scheduler.slots)
        self._meter.set(metrics.SLOTS_USED, len(scheduler.running))
        self._meter.set(metrics.WAITING, self.waiting())
        self._meter.set(metrics.KV_TOKENS, scheduler.kv_tokens or scheduler.slots * self._model.context_tokens)
        self._meter.set(metrics.KV_TOKENS_USED, scheduler.cached_tokens)
        self._meter.set(metrics.FEATURE_CACHE_BYTES, self._features.bytes)

    def load(self) -> dict[str, float]:
        """The load of this engine for the autoscaling policy (from any thread)."""
        sequences = self._scheduler.sequences
        return {
            TOKENS_IN_FLIGHT: tokens_ahead(sequences, self._answer_lengths),
            KV_DEMAND: len(sequences) / self._scheduler.slots,
        }

    def waiting(self) -> int:
        """Sequences that wait for a slot (read from any thread)."""
        return len(self._scheduler.waiting)

    def slots_used(self) -> int:
        """Slots that hold a sequence now (read from any thread)."""
        return len(self._scheduler.running)


def _any_interactive(rows: list[Sequence]) -> bool:
    """Whether a user waits for the next tokens; background answers do not make steps of prefill shorter."""
    return any(row.prompt.lane == "interactive" for row in rows)


def deliver(outbox: Outbox) -> None:
    """Give each event to its sink."""
    for sink, event in outbox:
        sink(event)
