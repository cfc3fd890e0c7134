"""One engine replica in plain Python: loads the model, runs the loop, turns events into a stream."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator

import torch

from serve_app import metrics
from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import Delta, Event, Finished, ModelCard, Prompt, ToolCallDelta
from serve_app.engine.loop import EngineLoop, Outbox
from serve_app.engine.memory import measure_memory, plan_slots
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.model_runner import ModelRunner
from serve_app.engine.model.weights import load
from serve_app.engine.output.deltas import merge
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.structured.grammar import is_constrained
from serve_app.errors import EngineFailed, ServiceError
from serve_app.settings import EngineSettings, MetricsSettings, ModelSettings

log = logging.getLogger("glm.engine")


class EngineReplica:
    """A loaded, warmed-up engine; ready when the constructor returns."""

    def __init__(
        self, model: ModelSettings, engine: EngineSettings, refresh: MetricsSettings, meter: metrics.Meter
    ) -> None:
        started = time.perf_counter()
        # Ray gives an actor one OpenMP thread per logical CPU it asked for; the model wants the real ones.
        torch.set_num_threads(engine.threads or len(os.sched_getaffinity(0)))
        loaded = load(checkpoint_folder(model), model)
        adapter = loaded.model
        context_tokens = min(model.context_tokens, adapter.max_context_tokens)
        feature_bytes = engine.feature_cache_mib * 2**20
        slots = plan_slots(engine.max_slots, adapter.cache_shape, context_tokens, feature_bytes, adapter.device)
        runner = ModelRunner(adapter, slots, context_tokens)
        runner.check_numbers()
        runner.capture_graphs()
        self._meter = meter
        self._device = adapter.device
        self.loop = EngineLoop(
            runner,
            loaded.vocabulary,
            Scheduler(slots, engine.prefill_tokens, engine.max_waiting),
            FeatureCache(feature_bytes),
            meter,
            self._dispatch,
            engine.stream_interval_ms / 1e3,
        )
        self.card = ModelCard(
            name=model.served_name,
            family=adapter.family,
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
        self.loop.admission.grammars.tokenizer()  # before the first constraint, which would wait for it
        self._warm_up(adapter.probe())
        self._load_seconds = time.perf_counter() - started
        self._gauges.start()
        log.info(
            "model ready: %s, %.1f M parameters, %s, %s on %s, %d slots of %d tokens, %.1f s",
            self.card.name,
            self.card.parameters / 1e6,
            self.card.quantization,
            self.card.dtype,
            self.card.device,
            slots,
            context_tokens,
            self._load_seconds,
        )

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Events of one answer; text that piles up behind a slow reader comes in fewer, larger pieces.

        Leaving early, by `aclose` or cancellation, frees the slot within one step.
        """
        self._event_loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | ServiceError] = asyncio.Queue()
        # A new constraint takes a while to compile; neither this event loop nor the engine's thread waits for it.
        matcher = await asyncio.to_thread(self.loop.admission.matcher, prompt) if is_constrained(prompt) else None
        self.loop.submit(prompt, events.put_nowait, matcher)
        ended = False
        try:
            while not ended:
                for event in _merge_waiting(await events.get(), events):
                    ended = isinstance(event, (Finished, ServiceError))
                    if isinstance(event, ServiceError):
                        raise event
                    yield event
        finally:
            if not ended:
                self.loop.cancel(prompt.id)

    def check(self) -> None:
        """Raise if this replica can't answer any more."""
        if self.loop.failure is not None or not self._thread.is_alive():
            raise EngineFailed(f"the engine loop is dead: {self.loop.failure!r}")

    def close(self) -> None:
        """End the loop; requests still in it are told."""
        self._closed.set()
        self.loop.stop()
        self._thread.join(timeout=10)
        self.loop.admission.grammars.close()

    def _dispatch(self, outbox: Outbox) -> None:
        if self._event_loop is None:  # the warm-up, before any event loop asked
            _deliver(outbox)
            return
        try:
            self._event_loop.call_soon_threadsafe(_deliver, outbox)
        except RuntimeError:  # the event loop closed: the process is going down and nobody listens
            log.warning("events of %d requests were dropped at shutdown", len(outbox))

    def _warm_up(self, prompt: Prompt) -> None:
        """Answer one small picture before anyone else's, so that nobody pays for first-use costs."""
        ended = threading.Event()
        failures: list[ServiceError] = []

        def sink(event: Event | ServiceError) -> None:
            if isinstance(event, ServiceError):
                failures.append(event)
            if isinstance(event, (Finished, ServiceError)):
                ended.set()

        self.loop.submit(prompt, sink)
        if not ended.wait(prompt.deadline_s) or failures:
            raise failures[0] if failures else EngineFailed("the warm-up question was not answered in time")

    def _refresh_gauges(self, period_s: float) -> None:
        while not self._closed.wait(period_s):
            measure_memory(self._meter, self._device)
            self.loop.measure()
            self._meter.set(metrics.MODEL_LOAD_SECONDS, self._load_seconds)


def _deliver(outbox: Outbox) -> None:
    for sink, event in outbox:
        sink(event)


def _merge_waiting(
    first: Event | ServiceError, events: asyncio.Queue[Event | ServiceError]
) -> list[Event | ServiceError]:
    """What is waiting now, in order, pieces of one channel or call in a row as one."""
    merged = [first]
    while not events.empty():
        event, last = events.get_nowait(), merged[-1]
        both = None
        if isinstance(event, (Delta, ToolCallDelta)) and isinstance(last, (Delta, ToolCallDelta)):
            both = merge(last, event)
        if both is None:
            merged.append(event)
        else:
            merged[-1] = both
    return merged


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
