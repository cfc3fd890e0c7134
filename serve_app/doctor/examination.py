"""All checks in order: software, machine, device, model, memory; what one finds out, later ones use."""

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
from serve_app.doctor.report import Finding, Group, Plan, Report, Status, guarded, ok, problem, warning
from serve_app.doctor.software import check_bitsandbytes, check_software, try_bitsandbytes
from serve_app.settings import Settings

if TYPE_CHECKING:
    import torch

    from serve_app.doctor.skeleton import Skeleton
    from serve_app.engine.model.quantization import Quantization

# Whatever imports torch or transformers is imported by the step that needs it: if it can't be, that is a finding.


@dataclass(slots=True)
class _Known:
    """What earlier steps found out; None: they did not get so far, and later steps have nothing to look at."""

    settings: Settings
    ram_free_bytes: int = 0
    gpu_free_bytes: int = 0
    device: torch.device | None = None
    folder: Path | None = None
    config: dict[str, Any] | None = None
    dtype: torch.dtype | None = None
    quantization: Quantization | None = None
    tensors: dict[str, files.Stored] = field(default_factory=dict)
    weights_are_whole: bool = False
    skeleton: Skeleton | None = None
    plan: Plan | None = None


def examine(settings: Settings) -> Report:
    """Look at everything that `up` needs with these settings; changes nothing and downloads nothing."""
    known = _Known(settings)
    groups: dict[str, list[Finding]] = {title: [] for title, _, _ in _STEPS}
    with _quiet():
        for title, name, step in _STEPS:
            groups[title] += guarded(name, partial(step, known))
    return Report(
        version=__version__,
        model=settings.model.served_name,
        source=settings.model.source,
        groups=tuple(Group(title, tuple(findings)) for title, findings in groups.items() if findings),
        plan=known.plan,
    )


def _software(known: _Known) -> Iterator[Finding]:
    yield from check_software(facts.look_at_software())


def _machine(known: _Known) -> Iterator[Finding]:
    host = facts.look_at_host(known.settings)
    known.ram_free_bytes = host.ram_free_bytes
    yield from check_host(host)


def _gpu(known: _Known) -> Iterator[Finding]:
    wanted = known.settings.model.device
    findings = [ok("GPU", "not looked for: model.device is cpu")]
    if wanted != "cpu":
        driver = facts.look_at_driver()
        torch = facts.look_at_torch(driver)
        known.gpu_free_bytes = torch.free_bytes
        findings = list(check_gpu(driver, torch, wanted))
    yield from findings
    if all(finding.status != Status.PROBLEM for finding in findings):
        from serve_app.engine.model.weights import find_device

        known.device = find_device(wanted)


def _folder(known: _Known) -> Iterator[Finding]:
    folder = files.find_folder(known.settings.model)
    yield ok("folder", str(folder.resolve()))
    files.check_pointers(folder)
    config = files.read_config(folder)

    from serve_app.doctor.skeleton import check_type

    yield from check_type(config)
    known.folder, known.config = folder, config
    yield from files.check_code(folder)


def _quantization(known: _Known) -> Iterator[Finding]:
    if known.config is None:
        return
    from serve_app.engine.model.quantization import Quantization

    known.quantization = Quantization.of(known.settings.model)
    stored = known.config.get("quantization_config")
    if stored is None:
        return
    method = stored.get("quant_method", "unknown")
    if known.settings.model.quantization != "none":
        yield problem(
            "quantization",
            f"the weights are stored quantized ({method}), and can't be quantized again",
            "Leave --quantization (GLM_MODEL__QUANTIZATION) at none: it loads as it is stored.",
        )
    elif method != "bitsandbytes":
        yield warning(
            "quantization",
            f"the weights are stored quantized by {method}; only bitsandbytes was tried",
            "If it does not load: take the unquantized release and --quantization nf4.",
        )
    else:
        yield ok("quantization", "stored quantized by bitsandbytes, loads as it is")


def _dtype(known: _Known) -> Iterator[Finding]:
    if known.config is None:
        return
    from serve_app.engine.model.weights import checkpoint_dtype, find_dtype

    stored = checkpoint_dtype(known.config)
    if known.device is None:  # names and shapes can be examined all the same
        known.dtype = stored
        return
    known.dtype = find_dtype(known.settings.model.dtype, known.device, stored)
    chosen, checkpoint = (str(dtype).removeprefix("torch.") for dtype in (known.dtype, stored))
    yield check_dtype(chosen, checkpoint, known.device.type, known.settings.model.dtype)


def _bitsandbytes(known: _Known) -> Iterator[Finding]:
    if known.device is None or known.dtype is None:
        return
    wanted: str = known.settings.model.quantization
    stored = (known.config or {}).get("quantization_config") or {}
    if stored.get("quant_method") == "bitsandbytes":
        wanted = "nf4" if stored.get("load_in_4bit") else "int8"
    where = "the GPU" if known.device.type == "cuda" else "the CPU"
    yield from check_bitsandbytes(try_bitsandbytes(known.device, known.dtype), wanted, where)


def _weights(known: _Known) -> Iterator[Finding]:
    if known.folder is None or known.config is None:
        return
    from serve_app.doctor.skeleton import needs_index

    known.tensors, findings = files.read_shards(known.folder, needs_index(known.config))
    known.weights_are_whole = any(finding.status == Status.OK for finding in findings)
    yield from findings


def _layout(known: _Known) -> Iterator[Finding]:
    if known.folder is None or known.config is None or known.dtype is None or not known.tensors:
        return
    from serve_app.doctor import skeleton

    known.skeleton = skeleton.build(known.folder, known.config, known.tensors, known.dtype)
    if known.weights_are_whole:
        yield from skeleton.check_names(known.skeleton, known.tensors)


def _words(known: _Known) -> Iterator[Finding]:
    if known.folder is None or known.config is None:
        return
    from serve_app.doctor import tokenizer_check

    if known.skeleton is not None:
        family = known.skeleton.family
        yield from tokenizer_check.check_ids(known.folder, known.config, family.vocab_size, family.stop_ids)
    yield from tokenizer_check.check_conversation(known.folder, known.settings)


def _memory(known: _Known) -> Iterator[Finding]:
    if known.skeleton is None or known.device is None or known.quantization is None:
        return
    from serve_app.doctor.fit import Demand, check_fit, plan
    from serve_app.doctor.skeleton import quantized_bytes
    from serve_app.engine.model.footprint import Sizes

    family, settings = known.skeleton.family, known.settings
    stored = (known.config or {}).get("quantization_config")
    stored_bytes = quantized_bytes(known.tensors, family.dtype) if stored else None
    sizes = Sizes.of(family.model, family.cache_shape, stored_bytes)
    demand = Demand(
        device=known.device.type,
        quantization=known.quantization,
        slots=settings.engine.max_slots,
        context_tokens=min(settings.model.context_tokens, family.max_context_tokens),
        feature_bytes=settings.engine.feature_cache_mib * 2**20,
        free_bytes=known.gpu_free_bytes if known.device.type == "cuda" else known.ram_free_bytes,
        stored_as=stored.get("quant_method", "stored") if stored else None,
    )
    if demand.context_tokens < settings.model.context_tokens:
        most = f"{settings.model.context_tokens:,} tokens are set, the model takes {demand.context_tokens:,}"
        yield ok("context", f"{most}: cut to that")
    else:
        yield ok("context", f"{demand.context_tokens:,} of the model's {family.max_context_tokens:,} tokens")
    yield from check_fit(sizes, demand)
    known.plan = plan(sizes, demand)


# group, name of the finding if the step itself fails, step
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
    ("Model", "chat", _words),
    ("Memory", "memory", _memory),
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries keep what they have to say to themselves; what matters becomes a finding."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
