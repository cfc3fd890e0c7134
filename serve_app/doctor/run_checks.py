"""Runs all checks in order: software, machine, device, model, memory."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app import __version__
from serve_app.doctor import facts, files
from serve_app.doctor.device import check_dtype, check_gpu
from serve_app.doctor.host import check_host
from serve_app.doctor.report import Finding, Group, MemoryFit, Report, Status, guarded, ok, problem
from serve_app.doctor.software import check_bitsandbytes, check_software, measure_formats
from serve_app.errors import InvalidRequest
from serve_app.model_families import model_family
from serve_app.settings import Settings

if TYPE_CHECKING:
    import torch

    from serve_app.doctor.empty_model import EmptyModel
    from serve_app.engine.model.quantization import Quantization

# Each step imports what needs torch or transformers itself, so that a failing import becomes a finding.


@dataclass(slots=True)
class CheckContext:
    """What earlier steps found; a value of None means that the step did not succeed, and later ones skip."""

    settings: Settings
    ram_free_bytes: int = 0
    gpu_free_bytes: int = 0
    device: torch.device | None = None
    folder: Path | None = None
    config: dict[str, Any] | None = None
    dtype: torch.dtype | None = None
    quantization: Quantization | None = None
    is_expanded: bool = False  # the weights are stored compressed, and expanded while loading
    tensors: dict[str, files.Stored] = field(default_factory=dict)
    weights_are_complete: bool = False
    empty_model: EmptyModel | None = None
    fit: MemoryFit | None = None


def run_checks(settings: Settings, *, files_only: bool = False) -> Report:
    """Check everything that `up` needs with these settings; change nothing and download nothing.

    `files_only`: check the model's files against the settings, and not this machine.
    """
    context = CheckContext(settings)
    groups: dict[str, list[Finding]] = {title: [] for title, _, _ in _STEPS}
    with _quiet():
        for title, name, step in _STEPS:
            if not files_only or step in _OF_FILES:
                groups[title] += guarded(name, partial(step, context))
    return Report(
        version=__version__,
        model=settings.model.served_name,
        source=settings.model.source,
        groups=tuple(Group(title, tuple(findings)) for title, findings in groups.items() if findings),
        fit=context.fit,
        files_only=files_only,
    )


def _software(context: CheckContext) -> Iterator[Finding]:
    yield from check_software(facts.collect_software())


def _machine(context: CheckContext) -> Iterator[Finding]:
    host = facts.collect_host(context.settings)
    context.ram_free_bytes = host.ram_free_bytes
    yield from check_host(host, context.settings.replicas.engine)


def _gpu(context: CheckContext) -> Iterator[Finding]:
    wanted = context.settings.model.device
    findings = [ok("GPU", "not checked, because model.device is cpu")]
    if wanted != "cpu":
        driver = facts.collect_driver()
        torch = facts.collect_torch(driver)
        context.gpu_free_bytes = torch.free_bytes
        findings = list(check_gpu(driver, torch, wanted, context.settings.replicas.engine))
    yield from findings
    if all(finding.status != Status.PROBLEM for finding in findings):
        from serve_app.engine.model.weights import find_device

        context.device = find_device(wanted)


def _folder(context: CheckContext) -> Iterator[Finding]:
    folder = files.find_folder(context.settings.model)
    yield ok("folder", str(folder.resolve()))
    files.check_pointers(folder)
    config = files.read_config(folder)

    from serve_app.doctor.empty_model import check_family

    yield from check_family(config, folder)
    context.folder, context.config = folder, config
    yield from files.check_code(folder)


def _quantization(context: CheckContext) -> Iterator[Finding]:
    if context.config is None:
        return
    from serve_app.engine.model.compressed_tensors import CompressedTensors
    from serve_app.engine.model.quantization import Quantization

    context.quantization = Quantization.of(context.settings.model)
    stored = context.config.get("quantization_config")
    if stored is None:
        return
    try:
        context.is_expanded = CompressedTensors.of(context.config) is not None
    except InvalidRequest:
        context.config = None  # the checks of the weights would only repeat it
        raise
    method = stored.get("quant_method", "unknown")
    if context.is_expanded:
        kind = context.settings.model.quantization
        then = "" if kind == "none" else f", then quantized to {kind}"
        yield ok("quantization", f"stored quantized by {method}, expanded while loading{then}")
    elif context.settings.model.quantization != "none":
        yield problem(
            "quantization",
            f"The weights are stored quantized ({method}) and can't be quantized again.",
            "Leave --quantization (GLM_MODEL__QUANTIZATION) at none.",
        )
    else:
        yield ok("quantization", "stored quantized by bitsandbytes")


def _dtype(context: CheckContext) -> Iterator[Finding]:
    if context.config is None:
        return
    from serve_app.engine.model.weights import checkpoint_dtype, find_dtype

    stored = checkpoint_dtype(context.config)
    if context.device is None:  # names and shapes can be checked without a device
        context.dtype = stored
        return
    context.dtype = find_dtype(context.settings.model.dtype, context.device, stored)
    if context.quantization is not None:
        context.quantization.check_device(context.device, context.dtype)
    chosen, checkpoint = (str(dtype).removeprefix("torch.") for dtype in (context.dtype, stored))
    yield check_dtype(chosen, checkpoint, context.device.type, context.settings.model.dtype)


def _bitsandbytes(context: CheckContext) -> Iterator[Finding]:
    if context.device is None or context.dtype is None:
        return
    wanted: str = context.settings.model.quantization
    stored = (context.config or {}).get("quantization_config") or {}
    if stored.get("quant_method") == "bitsandbytes":
        wanted = "nf4" if stored.get("load_in_4bit") else "int8"
    where = "the GPU" if context.device.type == "cuda" else "the CPU"
    yield from check_bitsandbytes(measure_formats(context.device, context.dtype), wanted, where)


def _weights(context: CheckContext) -> Iterator[Finding]:
    if context.folder is None or context.config is None:
        return
    needs_index = model_family(context.config, context.folder).weight_layout == "transformers"
    context.tensors, findings = files.read_shards(context.folder, needs_index)
    context.weights_are_complete = any(finding.status == Status.OK for finding in findings)
    yield from findings


def _layout(context: CheckContext) -> Iterator[Finding]:
    if context.folder is None or context.config is None or context.dtype is None or not context.tensors:
        return
    from serve_app.doctor import empty_model

    context.empty_model = empty_model.build(context.folder, context.config, context.tensors, context.dtype)
    if context.weights_are_complete:
        yield from empty_model.check_names(context.empty_model, context.tensors)


def _chat(context: CheckContext) -> Iterator[Finding]:
    if context.folder is None or context.config is None:
        return
    from serve_app.doctor import tokenizer_check

    if context.empty_model is not None:
        family = context.empty_model.family
        yield from tokenizer_check.check_ids(context.folder, context.config, family.vocab_size, family.stop_ids)
    yield from tokenizer_check.check_conversation(context.folder, context.settings)


def _memory(context: CheckContext) -> Iterator[Finding]:
    if context.empty_model is None or context.device is None or context.quantization is None:
        return
    from serve_app.doctor.empty_model import quantized_bytes
    from serve_app.doctor.fit import Demand, check_fit, fit_slots
    from serve_app.engine.model.footprint import Sizes
    from serve_app.engine.model.kernels import available
    from serve_app.engine.model.quantization import Quantization
    from serve_app.engine.model.trunk import supports

    family, settings = context.empty_model.family, context.settings
    stored = None if context.is_expanded else (context.config or {}).get("quantization_config")
    stored_bytes = quantized_bytes(context.tensors, family.dtype) if stored else None
    sizes = Sizes.of(family.model, family.cache_shape, stored_bytes)
    demand = Demand(
        device=context.device.type,
        quantization=context.quantization,
        slots=settings.engine.max_slots,
        context_tokens=min(settings.model.context_tokens, family.max_context_tokens),
        feature_bytes=settings.engine.feature_cache_mib * 2**20,
        free_bytes=context.gpu_free_bytes if context.device.type == "cuda" else context.ram_free_bytes,
        stored_as=stored.get("quant_method", "stored") if stored else None,
        has_pages=available(context.device) and supports(family.text_layers),
        has_fp8=Quantization("fp8").runs_on(context.device, family.dtype),
    )
    if demand.context_tokens < settings.model.context_tokens:
        most = f"{demand.context_tokens:,} tokens, the model's most, instead of {settings.model.context_tokens:,}"
        yield ok("context", most)
    else:
        yield ok("context", f"{demand.context_tokens:,} of the model's {family.max_context_tokens:,} tokens")
    yield from check_fit(sizes, demand)
    context.fit = fit_slots(sizes, demand)


# (group, name of the finding if the step itself fails, step)
_STEPS = (
    ("Software", "packages", _software),
    ("Machine", "machine", _machine),
    ("Device", "GPU", _gpu),
    ("Model", "folder", _folder),
    ("Model", "quantization", _quantization),
    ("Device", "dtype", _dtype),
    ("Device", "bitsandbytes", _bitsandbytes),
    ("Model", "weights", _weights),
    ("Model", "names", _layout),
    ("Model", "chat", _chat),
    ("Memory", "memory", _memory),
)
_OF_FILES = (_folder, _quantization, _dtype, _weights, _layout, _chat)  # without a device, _dtype is the checkpoint's


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output of libraries; what matters becomes a finding."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
