"""Checks that driver, torch and GPU fit together, and the compute type."""

from __future__ import annotations

import re
from collections.abc import Iterator

from serve_app.doctor.facts import Driver, Torch
from serve_app.doctor.report import Finding, ok, problem, sized, warning

# CUDA major -> oldest driver: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
_OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
_HELD_BYTES = 2**30  # of other processes; a desktop needs less
_OWN_BYTES = 3 * 2**29  # of the driver and this process
_CONTAINER = "Give a container the GPU: docker run --gpus all, or nvidia.com/gpu in the pod's limits."


def check_gpu(driver: Driver, torch: Torch, wanted: str, engines: int = 1) -> Iterator[Finding]:
    """Whether torch can use a GPU for each of `engines` replicas; `wanted` is cuda or auto."""
    if torch.gpus:
        yield from _usable(driver, torch, engines)
    elif driver.hangs:
        yield problem(
            "driver",
            "nvidia-smi does not respond: the driver or the card hangs.",
            "Look for Xid messages in dmesg. Restarting the machine usually helps. Or use --device cpu.",
        )
    elif driver.gpus:
        yield _unusable(driver, torch)
    elif wanted == "cuda":
        yield problem(
            "GPU", f"model.device is cuda, but there is no GPU: {torch.error}", f"{_CONTAINER} Or use --device cpu."
        )
    elif driver.version:
        yield warning("GPU", f"The machine has NVIDIA driver {driver.version}, but no GPU is visible here.", _CONTAINER)
    else:
        yield ok("GPU", "none; the model runs on the CPU")


def _usable(driver: Driver, torch: Torch, engines: int) -> Iterator[Finding]:
    version = driver.version or "(of unknown version)"
    yield ok("driver", f"NVIDIA {version}; torch {torch.version} is built for CUDA {torch.cuda}")
    what = f"{torch.name}, compute capability {_dotted(torch.capability)}, {sized(torch.total_bytes)}"
    if engines > torch.gpus:
        yield problem(
            "GPU",
            f"{engines} engine replicas need {engines} GPUs, and {torch.gpus} can be used.",
            f"{_CONTAINER} Or use --engines {torch.gpus} (replicas.engine).",
        )
    elif torch.gpus > engines:
        used = "only one is used" if engines == 1 else f"{engines} are used"
        yield ok("GPU", f"{what}; the first of {torch.gpus}, {used} (--engines)")
    else:
        yield ok("GPU", what if torch.gpus == 1 else f"{what}; the first of {torch.gpus}, all are used")
    if not has_kernels(torch.capability, torch.architectures):
        older = all(torch.capability < _capability(name) for name in torch.architectures)
        yield problem(
            "kernels",
            f"torch {torch.version} has no code for compute capability {_dotted(torch.capability)},"
            f" only for {', '.join(torch.architectures)}.",
            "Install a torch within the range above that is built for an older CUDA: such builds support older cards."
            if older
            else "Install a newer torch within the range above, built for the newest CUDA that the driver supports.",
        )
    yield _memory(driver, torch)


def _unusable(driver: Driver, torch: Torch) -> Finding:
    """The driver shows a card that torch can't use."""
    card = f"The machine has {driver.gpus[0]}, but torch {torch.version}"
    instead = "Or use --device cpu."
    if torch.cuda is None:
        return problem("torch", f"{card} is built without CUDA.", f"Install torch's CUDA build instead. {instead}")
    oldest = _OLDEST_DRIVERS.get(int(torch.cuda.partition(".")[0]))
    if oldest and driver.version and int(driver.version.partition(".")[0]) < oldest:
        return problem(
            "driver",
            f"NVIDIA {driver.version} is too old for torch {torch.version}, which is built for CUDA {torch.cuda}.",
            f"Install driver {oldest} or newer, or a torch built for an older CUDA. {instead}",
        )
    return problem(
        "torch",
        f"{card} can't use it: {torch.error}",
        f"Check whether CUDA_VISIBLE_DEVICES hides it, and what nvidia-smi reports. {_CONTAINER} {instead}",
    )


def _memory(driver: Driver, torch: Torch) -> Finding:
    free = f"{sized(torch.free_bytes)} of {sized(torch.total_bytes)} free"
    held = sum(process.used_bytes for process in driver.processes)
    if held > _HELD_BYTES:
        largest = sorted(driver.processes, key=lambda process: process.used_bytes, reverse=True)
        shown = ", ".join(f"{h.name} (process {h.pid}) {sized(h.used_bytes)}" for h in largest[:3])
        return warning(
            "GPU memory", f"{free}; other processes use it: {shown}", "Stop those that the model does not need."
        )
    unseen = torch.total_bytes - torch.free_bytes - held
    if unseen > _OWN_BYTES + _HELD_BYTES:
        return warning(
            "GPU memory",
            f"{free}; processes that are not visible here use {sized(unseen)}",
            "Run nvidia-smi on the host itself: another container may use the same card.",
        )
    return ok("GPU memory", free)


def has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether torch's list of architectures contains code for this card.

    Machine code (sm_XY) runs on its major version from its minor version on, or only on one card (sm_90a) or family
    (sm_100f). The driver translates portable code (compute_XY) for newer cards.
    """
    for name in architectures:
        built = _capability(name)
        if name.endswith("a"):
            fits = capability == built
        elif name.startswith("compute_"):
            fits = capability >= built
        else:
            fits = capability[0] == built[0] and capability[1] >= built[1]
        if fits:
            return True
    return False


def check_dtype(dtype: str, stored: str, device: str, wanted: str) -> Finding:
    """Check the compute type that the loader chooses; names are torch's."""
    if device == "cpu" and wanted == "auto":
        return ok("dtype", f"{dtype}, the default on a CPU")
    if dtype == "float16" and stored == "bfloat16":
        overflow = "Numbers above 65,504 overflow, and the request fails. If that happens,"
        if wanted == "auto":
            seen = "float16 for a bfloat16 checkpoint, because this GPU has no bfloat16"
            return warning("dtype", seen, f"{overflow} use a GPU of compute capability 8.0 or newer.")
        seen = "float16, as set, for a bfloat16 checkpoint"
        return warning("dtype", seen, f"{overflow} leave --dtype (GLM_MODEL__DTYPE) at auto.")
    return ok("dtype", f"{dtype}, {'as in the checkpoint' if wanted == 'auto' else 'as set'}")


def _capability(architecture: str) -> tuple[int, int]:
    digits = re.sub(r"\D", "", architecture)
    return int(digits[:-1]), int(digits[-1])


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
