"""Where the model would run: driver, torch and GPU against each other, and the type it computes in."""

from __future__ import annotations

import re
from collections.abc import Iterator

from serve_app.doctor.facts import Driver, Torch
from serve_app.doctor.report import Finding, ok, problem, sized, warning

# CUDA major -> oldest driver: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
_OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
_HELD_BYTES = 2**30  # by others; less is a desktop's
_OWN_BYTES = 3 * 2**29  # that the driver and this process take for themselves
_CONTAINER = "A container needs the GPU given to it: docker run --gpus all, or nvidia.com/gpu in the pod's limits."


def check_gpu(driver: Driver, torch: Torch, wanted: str) -> Iterator[Finding]:
    """Whether torch can use a GPU; `wanted` is cuda, or auto, which takes any card that the driver shows."""
    if torch.gpus:
        yield from _usable(driver, torch)
    elif driver.hangs:
        yield problem(
            "driver",
            "nvidia-smi does not answer: the driver or the card hangs",
            "Look for Xid messages in dmesg; restarting the machine usually helps. --device cpu does without the GPU.",
        )
    elif driver.gpus:
        yield _unusable(driver, torch)
    elif wanted == "cuda":
        yield problem(
            "GPU", f"model.device is cuda, but there is none: {torch.error}", f"{_CONTAINER} Or --device cpu."
        )
    elif driver.version:
        yield warning(
            "GPU", f"the machine has NVIDIA driver {driver.version}, but no GPU is seen from here", _CONTAINER
        )
    else:
        yield ok("GPU", "none; the model runs on the CPU")


def _usable(driver: Driver, torch: Torch) -> Iterator[Finding]:
    version = driver.version or "(of unknown version)"
    yield ok("driver", f"NVIDIA {version}; torch {torch.version} is built for CUDA {torch.cuda}")
    what = f"{torch.name}, compute capability {_dotted(torch.capability)}, {sized(torch.total_bytes)}"
    yield ok("GPU", what if torch.gpus == 1 else f"{what}; the first of {torch.gpus}, one is used")
    if not has_kernels(torch.capability, torch.architectures):
        older = all(torch.capability < _capability(name) for name in torch.architectures)
        yield problem(
            "kernels",
            f"torch {torch.version} has no code for compute capability {_dotted(torch.capability)},"
            f" only for {', '.join(torch.architectures)}",
            "Install a torch built for an older CUDA, within the range above; such builds keep older cards."
            if older
            else "Install a newer torch, within the range above, built for the newest CUDA that the driver allows.",
        )
    yield _memory(driver, torch)


def _unusable(driver: Driver, torch: Torch) -> Finding:
    """A card is there and torch can't use it; `up` would try all the same."""
    card = f"{driver.gpus[0]} is there, but torch {torch.version}"
    instead = "Or --device cpu, to do without the GPU."
    if torch.cuda is None:
        return problem(
            "torch", f"{card} is built without CUDA", f"Install torch's CUDA build in place of this one. {instead}"
        )
    oldest = _OLDEST_DRIVERS.get(int(torch.cuda.partition(".")[0]))
    if oldest and driver.version and int(driver.version.partition(".")[0]) < oldest:
        return problem(
            "driver",
            f"NVIDIA {driver.version} is too old for torch {torch.version}, which is built for CUDA {torch.cuda}",
            f"Install driver {oldest} or newer, or a torch built for an older CUDA. {instead}",
        )
    return problem(
        "torch",
        f"{card} can't use it: {torch.error}",
        f"See whether CUDA_VISIBLE_DEVICES hides it, and what nvidia-smi says. {_CONTAINER} {instead}",
    )


def _memory(driver: Driver, torch: Torch) -> Finding:
    free = f"{sized(torch.free_bytes)} of {sized(torch.total_bytes)} free"
    held = sum(holder.held_bytes for holder in driver.holders)
    if held > _HELD_BYTES:
        largest = sorted(driver.holders, key=lambda holder: holder.held_bytes, reverse=True)
        shown = ", ".join(f"{h.name} (process {h.pid}) {sized(h.held_bytes)}" for h in largest[:3])
        return warning(
            "GPU memory", f"{free}; others hold it: {shown}", "End those that need not run beside the model."
        )
    unseen = torch.total_bytes - torch.free_bytes - held
    if unseen > _OWN_BYTES + _HELD_BYTES:
        return warning(
            "GPU memory",
            f"{free}; what holds {sized(unseen)} can't be seen from here",
            "Run nvidia-smi on the host itself: another container may use the same card.",
        )
    return ok("GPU memory", free)


def has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether torch's list holds code for this card.

    Machine code (sm_XY) runs on the same major version from its minor version on, unless marked for one
    card alone (sm_90a) or its family (sm_100f); portable code (compute_XY) is translated for newer ones.
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
    """The type that the loader chose; names are torch's."""
    if device == "cpu" and wanted == "auto":
        return ok("dtype", f"{dtype}, as always on a CPU unless told otherwise")
    if dtype == "float16" and stored == "bfloat16":
        overflow = "Numbers above 65,504 overflow, and such an answer ends in an error. If that happens:"
        if wanted == "auto":
            seen = "float16 for a checkpoint of bfloat16, which this GPU does not have"
            return warning("dtype", seen, f"{overflow} use a GPU of compute capability 8.0 or newer.")
        seen = "float16, as set, for a checkpoint of bfloat16"
        return warning("dtype", seen, f"{overflow} leave --dtype (GLM_MODEL__DTYPE) at auto.")
    return ok("dtype", f"{dtype}, {'the checkpoint has it' if wanted == 'auto' else 'as set'}")


def _capability(architecture: str) -> tuple[int, int]:
    digits = re.sub(r"\D", "", architecture)
    return int(digits[:-1]), int(digits[-1])


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
