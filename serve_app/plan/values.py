"""The plan as a Helm values file, with what each figure follows from and whether it was measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from serve_app import __version__
from serve_app.plan.choice import DRIVER_BYTES, PEAK, Plan
from serve_app.plan.host import BUSY, POD_CPUS, Range
from serve_app.plan.measured import REACHED, is_measured
from serve_app.settings import EngineSettings

_WIDTH = 112  # of comment lines
_UNIT = re.compile(r"(\d) (s|ms|GiB|GB/s|TFLOP/s)\b")  # numbers stay with their units
_GPU_POD_CPUS = 4
_GPU_POD_MEMORY = "24Gi"
_CPU_POD_MEMORY = "8Gi"


def values_file(plan: Plan, model: str, command: str) -> str:
    """YAML for `helm install -f`: only what differs from the chart's defaults or depends on the plan."""
    lines = [*_head(plan, model, command), "", *_body(plan, model)]
    return "\n".join(lines) + "\n"


def summary(plan: Plan, model: str) -> str:
    """The plan in one sentence, for the terminal."""
    gpus = f"{plan.replicas} {plan.card.name}" + (f", {plan.replicas_at_peak} at peak" if _grows(plan) else "")
    return (
        f"{model}: {gpus}; {_held(plan)}, {plan.slots} slots of {plan.context_tokens:,} tokens; one GPU carries"
        f" {plan.most_per_replica:.2f} requests/s ({_how_known(plan)})"
    )


def _head(plan: Plan, model: str, command: str) -> Iterator[str]:
    request, operation = plan.request, plan.operation
    yield from _comment(f"{model} on {plan.card.name}, {plan.load.requests_per_s:g} requests a second.")
    yield from _comment(f"Written by glm-serve {__version__}: {command}")
    yield "#"
    yield from _comment(f"{_how_known(plan).capitalize()}. {_basis(plan)}")
    yield "#"
    sizes = ", ".join(
        f"{width} x {height} ({tokens:,} tokens)"
        for (width, height), tokens in zip(plan.load.pictures, request.pictures, strict=True)
    )
    yield from _comment(
        f"A request: {_counted(len(request.pictures), 'picture')}{': ' + sizes if sizes else ''};"
        f" {request.text_tokens:,} tokens of text; an answer of {request.answer_tokens:,}. No picture is taken to come"
        " twice."
    )
    yield from _comment(
        f"One GPU needs {plan.replica.idle_s:.2f} s to read it, and carries {plan.most_per_replica:.2f} such"
        f" requests a second with 95 of 100 first tokens within {plan.first_token_s:.3g} s."
    )
    yield from _comment(
        f"Under this load {'it' if plan.replicas == 1 else f'each of {plan.replicas} replicas'} writes"
        f" {operation.rows:.1f} answers at once,"
        f" a token of each every {operation.token_s * 1e3:.0f} ms; first token within {operation.first_token_s:.2f} s"
        f" (95 of 100), whole answer {operation.answer_s:.1f} s (mean)."
    )
    yield from _comment(
        f"GPU time: {1e3 * 1 / plan.replica.limit(plan.slots):,.0f} s for 1,000 requests in full batches."
    )
    if not plan.card.bfloat16:
        yield from _comment(
            f"{plan.card.name} has no bfloat16: the model computes in float16, and refuses to start if that breaks it."
        )


def _body(plan: Plan, model: str) -> Iterator[str]:
    memory, stages = plan.memory, plan.stages
    yield "settings:"
    yield "  model:"
    yield f"    path: {json.dumps(_served_path(model), ensure_ascii=False)}"
    parts = (
        f"weights {_gib(memory.weights)} {_held(plan)}, {plan.slots} slots {_gib(plan.slots * memory.slot)}, counted",
        f"pictures and workspace {_gib(memory.used(0) - memory.weights - DRIVER_BYTES)}, driver {_gib(DRIVER_BYTES)},"
        " estimated",
    )
    yield from _comment(f"{_gib(memory.used(plan.slots))} of {_gib(memory.card)} GiB: {'; '.join(parts)}.", 4)
    yield f"    quantization: {json.dumps(plan.quantization.kind)}"
    if plan.quantization.vision:
        yield "    quantize_vision: true"
    yield from _comment(f"The request has {plan.request.tokens:,} tokens; the rest is for longer ones.", 4)
    yield f"    context_tokens: {plan.context_tokens}"
    if plan.request.pictures and plan.image_tokens < 6144 and plan.replica.costs.checkpoint.grid is not None:
        yield "  preprocess:"
        yield from _comment("Larger pictures are scaled down to this: they would not fit the context.", 4)
        yield f"    max_image_tokens: {plan.image_tokens}"
    yield "  engine:"
    if plan.replica.chunk_tokens != EngineSettings().prefill_tokens:
        gap_s = plan.replica.costs.chunk_s(0, plan.replica.chunk_tokens)
        yield from _comment(
            "A prompt is read with less work in larger chunks; everyone else's next token waits for one, up to"
            f" {gap_s:.1f} s.",
            4,
        )
        yield f"    prefill_tokens: {plan.replica.chunk_tokens}"
    yield from _comment(
        f"{plan.operation.in_flight:.1f} requests are in a replica on average; up to {memory.slots} slots would fit.", 4
    )
    yield f"    max_slots: {plan.slots}"
    yield ""
    yield "stages:"
    yield "  engine:"
    yield from _comment(
        f"The load needs {_counted(plan.replicas, 'replica')} all the time; {PEAK:g} times the load may come.", 4
    )
    yield f"    replicas: {_range(Range(plan.replicas, plan.replicas_at_peak))}"
    yield from _comment("What a replica has ahead of it, in tokens, at the most that it carries.", 4)
    yield f"    targetTokensInFlight: {_rounded_up(plan.limit.tokens_ahead, 256)}"
    yield "  preprocess:"
    yield from _comment(
        f"{stages.request_ms:.0f} ms of a core for a request's pictures (measured: AMD EPYC); cores {BUSY:.0%} busy.",
        4,
    )
    yield f"    replicas: {_range(stages.preprocess)}"
    yield "  ingress:"
    yield from _comment("By requests and pieces of answers passed on (measured on two cores), half a core each.", 4)
    yield f"    replicas: {_range(stages.ingress)}"
    yield ""
    yield "workers:"
    yield "  cpu:"
    yield f"    replicas: {_range(stages.pods)}"
    yield from _comment("1 GiB for each process and for Ray, 2 GiB shared memory (estimated).", 4)
    yield "    resources:"
    yield f'      requests: {{ cpu: "{POD_CPUS}", memory: {_CPU_POD_MEMORY} }}'
    yield f"      limits: {{ memory: {_CPU_POD_MEMORY} }}"
    yield "  gpu:"
    yield f"    replicas: {_range(Range(plan.replicas, plan.replicas_at_peak))}"
    yield from _comment(
        "The engine's loop, its stream of answers and loading; memory is an estimate, loading maps the files.", 4
    )
    yield "    resources:"
    yield f'      requests: {{ cpu: "{_GPU_POD_CPUS}", memory: {_GPU_POD_MEMORY} }}'
    yield f"      limits: {{ memory: {_GPU_POD_MEMORY} }}"
    if not _grows(plan):
        yield ""
        yield "upgrade:"
        yield from _comment("With a second cluster beside the first, an upgrade would need a second GPU.", 2)
        yield "  strategy: None"


def _how_known(plan: Plan) -> str:
    measured = is_measured(plan.card.name, plan.replica.costs.checkpoint.model_type, plan.quantization)
    return "calculated from measurements on this card" if measured else "estimated"


def _basis(plan: Plan) -> str:
    if _how_known(plan) == "estimated":
        return (
            f"The engine was measured on {REACHED.card}; what it reached there of the data sheet's rates is taken over"
            f" to {plan.card.name} ({plan.card.source}: {plan.card.bandwidth_gb_s:g} GB/s,"
            f" {plan.card.tensor_tflops:g} TFLOP/s)."
            " Measure before you buy: python -m benchmarks.capacity."
        )
    return "Points and errors: serve_app/plan/measured.py."


def _held(plan: Plan) -> str:
    if plan.quantization.kind == "none":
        return "whole"
    return f"in {plan.quantization.kind}{', vision tower too' if plan.quantization.vision else ''}"


def _served_path(model: str) -> str:
    folder = Path(model).expanduser()
    return f"/models/{folder.resolve().name}" if (folder / "config.json").is_file() else model


def _grows(plan: Plan) -> bool:
    return plan.replicas_at_peak > 1


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"


def _range(replicas: Range) -> str:
    return f"{{ min: {replicas.least}, max: {replicas.most} }}"


def _rounded_up(value: float, step: int) -> int:
    return max(1, math.ceil(value / step)) * step


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _comment(text: str, indent: int = 0) -> Iterator[str]:
    """Lines of at most `_WIDTH`, broken between words."""
    start = " " * indent + "#"
    line = start
    for word in _UNIT.sub("\\1\u00a0\\2", text).split(" "):
        if len(line) + 1 + len(word) > _WIDTH and line != start:
            yield line
            line = start
        line += f" {word}".replace("\u00a0", " ")
    yield line
