"""Engine replica: loads the model, runs the loop, returns events as an async stream."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

import torch

from serve_app import metrics
from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import Finished, Prompt
from serve_app.engine.loop import BUDGETS_WITHOUT_DECODING, EngineLoop, Outbox, deliver
from serve_app.engine.memory import measure_memory, plan_pages, plan_slots
from serve_app.engine.model import paged_runner
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.pages import PagePool
from serve_app.engine.model.runner import Runner
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.trunk import Trunk
from serve_app.engine.model.weights import import_family, load
from serve_app.engine.output.deltas import append_delta
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.unread_answers import UnreadAnswers, copied
from serve_app.errors import EngineFailed, ServiceError
from serve_app.process_memory import collect
from serve_app.replies import EngineEvent, EngineEvents, ModelCard, PixelsNeeded
from serve_app.settings import EngineSettings, MetricsSettings, ModelSettings

log = logging.getLogger("glm.engine")


class EventBuffer:
    """Events of one request that wait for their reader, in order; deltas are joined. Used in one event loop."""

    def __init__(self) -> None:
        self._events: list[EngineEvent | ServiceError] = []
        self._filled = asyncio.Event()

    def put(self, event: EngineEvent | ServiceError) -> None:
        append_delta(self._events, event)
        self._filled.set()

    async def take(self) -> list[EngineEvent | ServiceError]:
        """All events that wait; at least one."""
        await self._filled.wait()
        self._filled.clear()
        events, self._events = self._events, []
        return events


class _Phases:
    """Seconds of each phase of the start, for the log."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._phases: dict[str, float] = {}

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self._phases[name], self._last = now - self._last, now

    @property
    def seconds(self) -> float:
        return self._last - self._started

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f}" for name, seconds in self._phases.items())


class EngineReplica:
    """An engine that is loaded and warmed up when the constructor returns."""

    def __init__(
        self, model: ModelSettings, engine: EngineSettings, refresh: MetricsSettings, meter: metrics.Meter
    ) -> None:
        phases = _Phases()
        # Ray gives an actor one OpenMP thread per logical CPU that it requests; the model uses all real ones.
        torch.set_num_threads(engine.threads or len(os.sched_getaffinity(0)))
        folder = checkpoint_folder(model)
        import_family(folder)
        phases.end("imports")
        loaded = load(folder, model)
        phases.end("weights")
        adapter = loaded.model
        context_tokens = min(model.context_tokens, adapter.max_context_tokens)
        feature_bytes = engine.feature_cache_mib * 2**20
        _create_cublas_handles(adapter.device)
        slots, runner, pool = build_runner(adapter, engine.max_slots, context_tokens, feature_bytes)
        runner.compile_kernels()
        runner.check_numbers()
        phases.end("kernels")
        runner.capture_graphs()
        phases.end("graphs")
        runner.warm_up(engine.prefill_tokens * BUDGETS_WITHOUT_DECODING)
        phases.end("sizes")
        self._meter = meter
        self._device = adapter.device
        self.loop = EngineLoop(
            runner,
            loaded.vocabulary,
            Scheduler(slots, engine.prefill_tokens, engine.max_waiting, pool),
            FeatureCache(feature_bytes),
            meter,
            self._dispatch,
            engine.stream_interval_ms / 1e3,
            settings=engine,
        )
        self.unread: UnreadAnswers[EventBuffer] = UnreadAnswers(self.loop.cancel)
        # More threads than the sandbox lets wait, so that constraints that are known never wait for a thread.
        self._admitting = ThreadPoolExecutor(engine.grammar_processes + engine.grammar_queue + 8, "admission")
        self.card = ModelCard(
            name=model.served_name,
            model_type=adapter.model_type,
            context_tokens=context_tokens,
            quantization=loaded.quantization,
            dtype=str(adapter.dtype).removeprefix("torch."),
            device=_device_name(adapter.device),
            parameters=loaded.parameters,
        )
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self.loop.run, name="engine", daemon=True)
        self._gauges = threading.Thread(
            target=self._refresh_gauges, args=(refresh.refresh_s,), name="gauges", daemon=True
        )
        self._thread.start()
        self.loop.admission.grammars.tokenizer()  # before the first constraint, which would otherwise wait for it
        self._warm_up(adapter.probe())
        phases.end("first answer")
        self._load_seconds = phases.seconds
        self._gauges.start()
        log.info(
            "The model is ready: %s, %.1f M parameters, %s, %s on %s, %d slots of %d tokens, loaded in %.1f s (%s).",
            self.card.name,
            self.card.parameters / 1e6,
            self.card.quantization,
            self.card.dtype,
            self.card.device,
            slots,
            context_tokens,
            self._load_seconds,
            phases,
        )

    async def generate(self, prompt: Prompt) -> AsyncGenerator[EngineEvents, None]:
        """Events of one answer as they come, or `PixelsNeeded` alone; deltas that wait for a slow reader are joined.

        Closing or cancelling the generator frees the slot within one step.
        """
        buffer = self.unread.take(prompt) or await self._submit(prompt)
        ended = False
        try:
            while not ended:
                events = await buffer.take()
                ended = isinstance(events[-1], (Finished, ServiceError, PixelsNeeded))
                replies = tuple(event for event in events if not isinstance(event, ServiceError))
                if replies:
                    yield replies
                if isinstance(events[-1], ServiceError):
                    raise events[-1]
        finally:
            if not ended:
                self.loop.cancel(prompt.id)

    async def begin(self, prompt: Prompt) -> None:
        """Begin an answer, whose events `generate` returns when it is called with the same prompt, without pixels."""
        prompt = copied(prompt)
        self.unread.add(prompt, await self._submit(prompt))

    async def _submit(self, prompt: Prompt) -> EventBuffer:
        """Queue a prompt; its events come into the buffer."""
        self._event_loop = asyncio.get_running_loop()
        buffer = EventBuffer()
        admit = self.loop.admission.admit
        # A new constraint takes up to 100 ms to compile; neither this event loop nor the engine's thread waits for it.
        if prompt.is_constrained:
            sequence = await self._event_loop.run_in_executor(self._admitting, admit, prompt, buffer.put)
        else:
            sequence = admit(prompt, buffer.put)
        self.loop.submit(sequence)
        return buffer

    def check(self) -> None:
        """Raise EngineFailed if this replica cannot answer any more."""
        if self.loop.failure is not None or not self._thread.is_alive():
            raise EngineFailed(f"The engine loop has failed: {self.loop.failure!r}.")

    def close(self) -> None:
        """Stop the loop; requests that are still in it fail."""
        self._closed.set()
        self.loop.stop()
        self._thread.join(timeout=10)
        self._admitting.shutdown(wait=False, cancel_futures=True)
        self.loop.admission.grammars.close()

    def _dispatch(self, outbox: Outbox) -> None:
        if self._event_loop is None:  # the warm-up, before the first request
            deliver(outbox)
            return
        try:
            self._event_loop.call_soon_threadsafe(deliver, outbox)
        except RuntimeError:  # the event loop is closed: the process is shutting down
            log.warning("%d events were dropped at shutdown.", len(outbox))

    def _warm_up(self, prompt: Prompt) -> None:
        """Answer a small prompt with a picture, so that no request pays for first use."""
        ended = threading.Event()
        failures: list[ServiceError] = []

        def sink(event: EngineEvent | ServiceError) -> None:
            if isinstance(event, ServiceError):
                failures.append(event)
            if isinstance(event, (Finished, ServiceError)):
                ended.set()

        self.loop.submit(self.loop.admission.admit(prompt, sink))
        if not ended.wait(prompt.deadline_s) or failures:
            raise (
                failures[0]
                if failures
                else EngineFailed(f"The warm-up prompt was not answered within {prompt.deadline_s:g} s.")
            )

    def _refresh_gauges(self, period_s: float) -> None:
        queued = False  # since memory was returned
        while not self._closed.wait(period_s):
            measure_memory(self._meter, self._device)
            self.loop.measure()
            self._meter.set(metrics.MODEL_LOAD_SECONDS, self._load_seconds)
            queued = queued or self.loop.waiting() > 0
            if queued and not self.loop.waiting() and not self.loop.slots_used():
                collect()  # the prompts of the queue; without a queue, the same blocks are used again
                queued = False


def build_runner(
    model: ModelAdapter, slots: int, context_tokens: int, reserved_bytes: int
) -> tuple[int, Runner, PagePool | None]:
    """Slots, runner and pages: kernels over pages where the GPU has them, else the library's module over slots."""
    if paged_runner.supports(model):
        trunk = Trunk(model.text_layers, model.device)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()  # of the weights that the trunk joined: pages are planned by what is free
        pages = plan_pages(slots, model.cache_shape, context_tokens, reserved_bytes, model.device)
        return slots, paged_runner.PagedRunner(model, trunk, slots, pages, context_tokens), PagePool(pages)
    slots = plan_slots(slots, model.cache_shape, context_tokens, reserved_bytes, model.device)
    return slots, SlotRunner(model, slots, context_tokens), None


def _create_cublas_handles(device: torch.device) -> None:
    """Create the cuBLAS handles of this thread and of the engine's before pages take the memory that is free.

    A handle belongs to a thread; torch gives that of a thread that has ended to the next one, the engine's.
    """
    if device.type != "cuda":
        return

    def create() -> None:
        with torch.cuda.device(device):
            torch.cuda.current_blas_handle()

    create()
    thread = threading.Thread(target=create, name="cublas")
    thread.start()
    thread.join()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
