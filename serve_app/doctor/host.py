"""Checks the machine: RAM, shared memory, disk, open files, ports."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.doctor.facts import Host, Port
from serve_app.doctor.report import Finding, ok, problem, sized, warning
from serve_app.ray_flags import OBJECT_STORE_BYTES

_RAY_BYTES = 3 * 2**30  # of Ray's processes and the three stages without a model
_OPEN_FILES = 4096  # Ray warns below
_FULL = 0.95  # of a file system; above, Ray refuses to write objects to it


def check_host(host: Host, engines: int = 1) -> Iterator[Finding]:
    """Check what Ray and the stages need for any model, with so many engine replicas."""
    free = f"{host.cores} CPU cores, {sized(host.ram_free_bytes)} of {sized(host.ram_bytes)} RAM free"
    if host.ram_free_bytes < _RAY_BYTES:
        yield warning(
            "CPU and RAM",
            free,
            f"Ray and the service's own processes need about {sized(_RAY_BYTES)}: free some memory.",
        )
    else:
        yield ok("CPU and RAM", free)
    if host.shared_memory_bytes is not None:
        yield _shared_memory(host.shared_memory_bytes, OBJECT_STORE_BYTES * engines)
    if host.temporary_share > _FULL:
        yield warning(
            "temporary files",
            f"/tmp is {host.temporary_share:.0%} full, {sized(host.temporary_bytes)} are free.",
            f"Ray writes its logs there and stores no objects above {_FULL:.0%}: delete files.",
        )
    if host.open_files < _OPEN_FILES:
        yield warning(
            "open files",
            f"At most {host.open_files:,} files can be open, and every connection needs one.",
            "Raise the hard limit: ulimit -Hn 65536, or LimitNOFILE= of the systemd unit.",
        )
    else:
        yield ok("open files", "unlimited" if host.open_files > 2**40 else f"up to {host.open_files:,}")
    for port in host.ports:
        yield _port(port)


def _shared_memory(free_bytes: int, needed_bytes: int) -> Finding:
    seen = f"/dev/shm has {sized(free_bytes)} free"
    if free_bytes < needed_bytes:
        return warning(
            "shared memory",
            f"{seen}; Ray's object store of {sized(needed_bytes)} is on disk, which is slow.",
            f"In Docker start with --shm-size={needed_bytes // 2**30 + 1}g; in Kubernetes mount an emptyDir with"
            " medium: Memory at /dev/shm.",
        )
    return ok("shared memory", seen)


def _port(port: Port) -> Finding:
    name = f"port {port.number}"
    if port.error:
        return problem(
            name,
            f"Can't listen on {port.host}:{port.number} ({port.error}).",
            f"Stop what uses it (perhaps this service), or choose another port with {port.flag} ({port.setting}).",
        )
    return ok(name, f"free on {port.host}")
