"""Writes the plan as a Helm values file, with the reason for each figure and whether it was measured."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from serve_app import __version__
from serve_app.engine.model.pages import PAGE_TOKENS
from serve_app.plan.capacity_plan import (
    DRIVER_BYTES,
    FIRST_TOKEN_S,
    GPU_USE,
    MOST_SLOTS,
    PEAK,
    CapacityPlan,
    format_name,
)
from serve_app.plan.cpu_stages import CPU_USE, POD_CPUS, Range
from serve_app.plan.measured import FITTED, GPUS_MEASURED, PREPROCESS_CPU_S, is_measured
from serve_app.settings import EngineSettings, PreprocessSettings

MOST_GPU_PODS = 200  # of a release (docs/capacity.md, Growth)
LARGE_HEAD_GPUS = 8  # from so many pods with GPUs on, the head gets 4 CPUs
SHARED_STORAGE_GPUS = 4  # from so many on, weights are stored once
WAITING_REQUESTS = 20  # the chart's default of monitoring.prometheusRule.waitingRequests
GPU_MEMORY = 0.95  # and of monitoring.prometheusRule.vramFraction
FULL_GPU_MEMORY = 0.995  # 0.28 of 23.5 GiB were free (benchmarks/results/card_memory-2026-11-30-nf4.json)
_OLD_CARD = "It runs the library's modules over slots, not the engine's kernels over pages: twice as long is assumed."
_WIDTH = 112  # of comment lines
_UNIT = re.compile(r"(\d) (s|ms|GiB|GB/s|TFLOP/s)\b")  # a line does not break between number and unit
_GPU_POD = '{ cpu: "4", memory: 24Gi }', "{ memory: 24Gi }"
_LARGE_HEAD = '{ cpu: "4", memory: 16Gi }', "{ memory: 16Gi }"
_CPU_POD = f'{{ cpu: "{POD_CPUS}", memory: 8Gi }}', "{ memory: 8Gi }"


def values_file(plan: CapacityPlan, model: str, command: str) -> str:
    """YAML for `helm install --values`: what differs from the chart's defaults or depends on the plan."""
    parts = (
        _header(plan, model, command),
        _settings(plan, model),
        _replicas(plan),
        _cluster(plan, model),
        _alerts(plan),
    )
    return "\n\n".join("\n".join(lines) for lines in map(list, parts) if lines) + "\n"


def summary(plan: CapacityPlan, model: str) -> str:
    """The plan in one line, for the terminal."""
    gpus = f"{plan.replicas} {plan.gpu_time.card.name}"
    if plan.replicas_at_peak > plan.replicas:
        gpus += f", {plan.replicas_at_peak} at peak"
    at_once = f"{_counted(plan.slots, 'request')} at once, context of {plan.context_tokens:,} tokens"
    return (
        f"{model}: {gpus}; {format_name(plan.gpu_time.quantization)}, {at_once};"
        f" one GPU answers {plan.requests_per_s:.2f} requests/s{_together(plan)} ({_basis(plan)})"
        + (f"; divide into {_releases(plan)} releases" if _releases(plan) > 1 else "")
    )


def _together(plan: CapacityPlan) -> str:
    return f", {plan.replicas} of them {plan.replicas * plan.requests_per_s:.4g}" if plan.replicas > 1 else ""


def _releases(plan: CapacityPlan) -> int:
    return math.ceil(plan.replicas_at_peak / MOST_GPU_PODS)


def _basis(plan: CapacityPlan) -> str:
    gpu_time = plan.gpu_time
    measured = is_measured(gpu_time.card.name, gpu_time.checkpoint.family.name, gpu_time.quantization)
    return "calculated from measurements on this card" if measured else "estimated"


def _header(plan: CapacityPlan, model: str, command: str) -> Iterator[str]:
    request, card = plan.request, plan.gpu_time.card
    yield from _comment(f"{model} on {card.name}, {plan.load.requests_per_s:g} requests a second.")
    yield from _comment(f"Written by glm-serve {__version__}: {command}")
    yield "#"
    if _basis(plan) != "estimated":
        yield from _comment("Times are calculated from measurements on this card (serve_app/plan/measured.py).")
    elif card.name == FITTED.card:
        yield from _comment(
            f"Times are estimated: requests a second were measured on {card.name}, but not of this model in this weight"
            " format. Measure: python -m benchmarks.capacity."
        )
    else:
        yield from _comment(
            f"Times are estimated: the engine was measured on {FITTED.card}, and {card.name} is assumed to reach the"
            f" same share of its data sheet ({card.source}: {card.bandwidth_gb_s:g} GB/s,"
            f" {card.tensor_tflops:g} TFLOP/s)."
            + ("" if card.has_pages else f" {_OLD_CARD}")
            + " Measure before you buy: python -m benchmarks.capacity."
        )
    yield "#"
    sizes = ", ".join(
        f"{width} x {height} ({tokens:,} tokens)"
        for (width, height), tokens in zip(plan.load.pictures, request.pictures, strict=True)
    )
    yield from _comment(
        f"A request: {_counted(len(request.pictures), 'picture')}{': ' + sizes if sizes else ''};"
        f" {request.text_tokens:,} tokens of text; an answer of {request.answer_tokens:,} tokens. Every picture is new."
    )
    yield from _comment(
        f"An idle GPU gives the first token after {plan.gpu_time.first_token_s(request):.2f} s."
        f" With {plan.slots} requests in flight it takes {plan.request_s:.3g} s of GPU time for each. {GPU_USE:.0%} of"
        f" that rate is planned: {plan.requests_per_s:.2f} requests a second."
    )
    if plan.replicas_at_peak > 1:
        measured = ", ".join(f"{gpus} gave {times:g} times one" for gpus, times in GPUS_MEASURED)
        yield from _comment(
            "Replicas are counted as independent of each other. GPUs of one host: "
            + (f"{measured} (measured)." if measured else "not measured yet.")
        )
    if not card.bfloat16:
        yield from _comment(
            f"{card.name} has no bfloat16: the model computes in float16, and a request whose numbers overflow fails."
        )


def _settings(plan: CapacityPlan, model: str) -> Iterator[str]:
    memory, quantization = plan.memory, plan.gpu_time.quantization
    yield "settings:"
    yield "  model:"
    yield f"    path: {json.dumps(_served_path(model), ensure_ascii=False)}"
    stored = (
        f"{memory.pages(plan.slots):,} pages of {PAGE_TOKENS} tokens" if memory.has_pages else f"{plan.slots} slots"
    )
    yield from _comment(
        f"{_gib(memory.used(plan.slots))} of {_gib(memory.card)} GiB: {format_name(quantization)}"
        f" {_gib(memory.weights)}, {stored} {_gib(memory.cache_bytes(plan.slots))} (both counted);"
        f" picture cache and workspace {_gib(memory.other - DRIVER_BYTES)}, driver {_gib(DRIVER_BYTES)}"
        " (both estimated).",
        4,
    )
    yield f"    quantization: {json.dumps(quantization.kind)}"
    if quantization.vision:
        yield "    quantize_vision: true"
    yield from _comment(f"The request has {plan.request.tokens:,} tokens; the rest is for longer ones.", 4)
    yield f"    context_tokens: {plan.context_tokens}"
    can_scale = plan.gpu_time.checkpoint.grid is not None
    if plan.request.pictures and can_scale and plan.image_tokens < PreprocessSettings().max_image_tokens:
        yield "  preprocess:"
        yield from _comment("Larger pictures are scaled down to this size, because they would not fit the context.", 4)
        yield f"    max_image_tokens: {plan.image_tokens}"
    yield "  engine:"
    yield from _comment(
        f"{memory.slots:,} requests of {plan.request.tokens:,} tokens fit at once; rates with more than"
        f" {MOST_SLOTS} were not measured.",
        4,
    )
    yield f"    max_slots: {plan.slots}"


def _replicas(plan: CapacityPlan) -> Iterator[str]:
    cpu, engine = plan.cpu_stages, Range(plan.replicas, plan.replicas_at_peak)
    yield "stages:"
    yield "  engine:"
    if engine.least == engine.most:
        yield from _comment(f"{_counted(engine.least, 'GPU')}, one replica each.", 4)
    else:
        yield from _comment(
            f"The load needs {_counted(engine.least, 'replica')}; the autoscaler may start enough for {PEAK:g} times"
            " the load.",
            4,
        )
    yield f"    replicas: {_range(engine)}"
    yield from _comment("Prompt tokens to read and answer tokens to write in one replica at the planned rate.", 4)
    yield f"    targetTokensInFlight: {math.ceil(plan.tokens_in_flight / 256) * 256}"
    yield "  preprocess:"
    yield from _comment(
        f"A request's pictures take {cpu.picture_ms:.0f} ms of a core (measured on AMD EPYC), the rest"
        f" {1e3 * PREPROCESS_CPU_S:.0f} (with two H200); a core is {CPU_USE:.0%} busy.",
        4,
    )
    yield f"    replicas: {_range(cpu.preprocess)}"
    yield "  ingress:"
    yield from _comment("By requests and streamed events (measured with two H200); half a core each.", 4)
    yield f"    replicas: {_range(cpu.ingress)}"
    yield ""
    yield "workers:"
    yield from _pods(
        "cpu", cpu.pods, _CPU_POD, "1 GiB for each process and for Ray, 2 GiB of shared memory (estimated)."
    )
    yield from _pods("gpu", engine, _GPU_POD, "The engine's loop and loading the weights (estimated).")


def _cluster(plan: CapacityPlan, model: str) -> Iterator[str]:
    """The head, what survives its loss, where weights are stored, how upgrades find GPUs."""
    gpus = plan.replicas_at_peak
    if gpus == 1:
        yield "upgrade:"
        yield from _comment("An upgrade with a second cluster beside the first would need a second GPU.", 2)
        yield "  strategy: None"
        return
    yield from _comment(
        f"An upgrade starts a second cluster and needs {_counted(plan.replicas, 'free GPU')} for that time. Without"
        " them set upgrade.strategy to None, which replaces the pods in place."
    )
    if _releases(plan) > 1:
        yield from _comment(
            f"{gpus} pods with GPUs are more than one RayService should have: install {_releases(plan)} releases, each"
            " planned for its part of the load (docs/capacity.md, Growth)."
        )
    if plan.replicas > 1:
        yield "faultTolerance:"
        yield from _comment("Workers go on while a lost head is replaced.", 2)
        yield "  enabled: true"
    if gpus >= LARGE_HEAD_GPUS:
        requests, limits = _LARGE_HEAD
        yield "head:"
        yield "  resources:"
        yield f"    requests: {requests}"
        yield f"    limits: {limits}"
    if gpus >= SHARED_STORAGE_GPUS and _served_path(model) == model:
        yield "modelStorage:"
        yield from _comment(
            "One download for all pods. The storage class has to mount a volume on several nodes (ReadWriteMany: NFS,"
            " Filestore, EFS, Azure Files, NAS); without one remove this, and each pod downloads the model.",
            2,
        )
        yield "  create: true"


def _alerts(plan: CapacityPlan) -> Iterator[str]:
    """Limits of alerts that differ from the chart's."""
    waiting = min(plan.waiting_requests, EngineSettings().max_waiting // 2)
    memory = plan.memory.used(plan.slots) / plan.memory.card
    if plan.first_token_s == FIRST_TOKEN_S and waiting <= WAITING_REQUESTS and memory <= GPU_MEMORY:
        return
    yield "monitoring:"
    yield "  prometheusRule:"
    if plan.first_token_s != FIRST_TOKEN_S:
        yield from _comment("The time to the first token that is asked for, or 4 times that of an idle GPU.", 4)
        yield f"    firstTokenSeconds: {plan.first_token_s:g}"
    if waiting > WAITING_REQUESTS:
        yield from _comment("Requests that a replica begins within that time.", 4)
        yield f"    waitingRequests: {waiting}"
    if memory > GPU_MEMORY:
        yield from _comment("The engine fills the card with pages, up to its workspace.", 4)
        yield f"    vramFraction: {FULL_GPU_MEMORY}"


def _pods(group: str, replicas: Range, resources: tuple[str, str], reason: str) -> Iterator[str]:
    requests, limits = resources
    yield f"  {group}:"
    yield f"    replicas: {_range(replicas)}"
    yield from _comment(reason, 4)
    yield "    resources:"
    yield f"      requests: {requests}"
    yield f"      limits: {limits}"


def _served_path(model: str) -> str:
    folder = Path(model).expanduser()
    return f"/models/{folder.resolve().name}" if (folder / "config.json").is_file() else model


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"


def _range(replicas: Range) -> str:
    return f"{{ min: {replicas.least}, max: {replicas.most} }}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _comment(text: str, indent: int = 0) -> list[str]:
    """Comment lines of at most `_WIDTH` characters, broken between words but not before a unit."""
    start = " " * indent + "# "
    text = _UNIT.sub("\\1\u00a0\\2", text)
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\u00a0", " ") for line in lines]
