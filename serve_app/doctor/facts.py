"""Collects facts of the machine: packages, driver, GPU, memory, ports; other modules check them."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from serve_app.settings import Settings

_DISTRIBUTION = "glm-vision-serve"
_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")  # also visible in a container without a GPU
_SHARED_MEMORY = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")
_TEMPORARY = Path("/tmp")  # where `up` keeps its run's files, see serve_app/standalone/up.py
_ANSWER_S = 20.0  # nvidia-smi takes seconds if no process uses the driver
_IMPORT_S = 120.0


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution that this one requires."""

    requirement: Requirement
    version: str | None  # None: not installed


@dataclass(frozen=True, slots=True)
class Software:
    """Python and the packages; `needs_python` and `packages` come from our own installed metadata."""

    python: str
    needs_python: str | None  # None: this distribution is not installed
    packages: tuple[Package, ...]
    torchvision: str | None  # its version; None: not installed
    torchvision_error: str = ""  # the error of importing it


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses memory of the GPU."""

    pid: int
    name: str
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver as nvidia-smi reports it, or else the kernel."""

    version: str | None = None  # None: there is no driver
    gpus: tuple[str, ...] = ()  # names of the cards
    processes: tuple[GpuProcess, ...] = ()
    hangs: bool = False  # nvidia-smi did not respond


@dataclass(frozen=True, slots=True)
class Torch:
    """The first GPU as torch sees it."""

    version: str
    cuda: str | None  # CUDA version it is built for; None: built without
    architectures: tuple[str, ...] = ()  # sm_90: machine code; compute_90: code that the driver translates
    gpus: int = 0
    name: str = ""
    capability: tuple[int, int] = (0, 0)
    free_bytes: int = 0
    total_bytes: int = 0
    error: str = ""  # why torch sees none


@dataclass(frozen=True, slots=True)
class Port:
    """A port that `up` will listen on."""

    host: str
    number: int
    setting: str
    flag: str
    error: str = ""  # why it can't be used; empty: it is free


@dataclass(frozen=True, slots=True)
class Host:
    """Everything that is neither GPU nor package."""

    cores: int
    ram_bytes: int
    ram_free_bytes: int
    shared_memory_bytes: int | None  # free; None: there is no /dev/shm
    temporary_bytes: int  # free
    temporary_share: float  # of the file system in use
    open_files: int  # the hard limit, to which Ray raises its own
    ports: tuple[Port, ...]


def collect_software() -> Software:
    """Versions from the installed metadata; an installed torchvision is imported in another process."""
    needs_python, packages = None, []
    try:
        requirements = [Requirement(line) for line in requires(_DISTRIBUTION) or ()]
        needs_python = metadata(_DISTRIBUTION)["Requires-Python"]
    except PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            packages.append(Package(requirement, _version(requirement.name)))
    torchvision = _version("torchvision") if find_spec("torchvision") else None
    error = import_error("torchvision") if torchvision else ""
    return Software(platform.python_version(), needs_python, tuple(packages), torchvision, error)


def collect_driver() -> Driver:
    """Run nvidia-smi, with a time limit because it hangs if the card does."""
    found = re.search(r"\d{3,}\.\d+(\.\d+)?", _KERNEL_DRIVER.read_text()) if _KERNEL_DRIVER.is_file() else None
    in_kernel = found.group() if found else None
    try:
        cards = _nvidia_smi("gpu=driver_version,name")
        listed = _nvidia_smi("compute-apps=pid,process_name,used_memory")
    except subprocess.TimeoutExpired:
        return Driver(in_kernel, hangs=True)
    except (OSError, subprocess.CalledProcessError):  # not installed, or not in this container
        return Driver(in_kernel)
    processes = [
        GpuProcess(int(pid), Path(", ".join(name)).name, int(mib) * 2**20)
        for pid, *name, mib in listed  # a name may have commas
        if mib.isdigit() and int(pid) != os.getpid()
    ]
    names = tuple(", ".join(name) for _, *name in cards)
    return Driver(cards[0][0] if cards else in_kernel, names, tuple(processes))


def collect_torch(driver: Driver) -> Torch:
    """The facts that torch reports. Raises what the import of torch raises."""
    import torch

    built = torch.__version__, torch.version.cuda
    if driver.hangs:  # CUDA would hang too
        return Torch(*built, error="the driver does not respond")
    try:
        torch.cuda.init()
        free, total = torch.cuda.mem_get_info()
        return Torch(
            *built,
            tuple(torch.cuda.get_arch_list()),
            torch.cuda.device_count(),
            torch.cuda.get_device_name(),
            torch.cuda.get_device_capability(),
            free,
            total,
        )
    except Exception as error:  # of many classes, AssertionError for a torch without CUDA
        return Torch(*built, error=(str(error).splitlines() or [type(error).__name__])[0])


def collect_host(settings: Settings) -> Host:
    """Memory, files and ports at this moment."""
    ram_bytes, ram_free_bytes = container_memory() or _machine_memory()
    temporary = shutil.disk_usage(_TEMPORARY)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ports = (
        (settings.http.host, settings.http.port, "http.port", "--port"),
        ("127.0.0.1", settings.metrics.port, "metrics.port", "--metrics-port"),
    )
    return Host(
        cores=len(os.sched_getaffinity(0)),
        ram_bytes=ram_bytes,
        ram_free_bytes=ram_free_bytes,
        shared_memory_bytes=shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None,
        temporary_bytes=temporary.free,
        temporary_share=temporary.used / temporary.total,
        open_files=sys.maxsize if hard == resource.RLIM_INFINITY else hard,
        ports=tuple(Port(*port, error=_bind_error(*port[:2])) for port in ports),
    )


def container_memory(cgroup: Path = _CGROUP) -> tuple[int, int] | None:
    """(limit, free) in bytes if a container has less memory than the machine, else None.

    Cached files count as free, as they do for the machine. Reads the files of cgroup v2, else of v1.
    """
    total, free = _machine_memory()
    for limit, current, statistics, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            allowed = int((cgroup / limit).read_text())
            used = int((cgroup / current).read_text())
            lines = dict(line.split() for line in (cgroup / statistics).read_text().splitlines())
        except (OSError, ValueError):  # "max": no limit
            continue
        if allowed < total:
            return allowed, min(free, allowed - used + int(lines.get(cached, 0)))
    return None


def _machine_memory() -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def import_error(module: str) -> str:
    """The last line of the error of importing `module` in a new process; empty if the import works."""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=_IMPORT_S
        )
    except subprocess.TimeoutExpired:
        return f"the import took more than {_IMPORT_S:g} s"
    if ended.returncode == 0:
        return ""
    return (ended.stderr.strip().splitlines() or [f"the process ended with status {ended.returncode}"])[-1]


def _nvidia_smi(query: str) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-{query}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True).stdout
    return [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _bind_error(host: str, port: int) -> str:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""
