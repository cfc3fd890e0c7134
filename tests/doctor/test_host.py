"""The machine around the card: what is enough, what is not, and where the figures come from."""

import socket
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from serve_app.doctor.facts import Host, Port, collect_host, container_memory
from serve_app.doctor.host import check_host
from serve_app.doctor.report import Status
from serve_app.settings import Settings
from tests.doctor.conftest import named

GIB = 2**30
ENOUGH = Host(
    cores=8,
    ram_bytes=32 * GIB,
    ram_free_bytes=20 * GIB,
    shared_memory_bytes=16 * GIB,
    temporary_bytes=90 * GIB,
    temporary_share=0.4,
    open_files=1_048_576,
    ports=(Port("127.0.0.1", 8000, "http.port", "--port"), Port("127.0.0.1", 8080, "metrics.port", "--metrics-port")),
)


def test_a_machine_that_has_enough_is_fine():
    assert {finding.status for finding in check_host(ENOUGH)} == {Status.OK}


@pytest.mark.parametrize(
    ("lacking", "name", "remedy"),
    [
        ({"ram_free_bytes": 2 * GIB}, "CPU and RAM", "free some"),
        ({"shared_memory_bytes": 64 * 2**20}, "shared memory", "--shm-size=2g"),
        ({"temporary_share": 0.97}, "temporary files", "delete files"),
        ({"open_files": 1024}, "open files", "ulimit -Hn 65536"),
    ],
)
def test_what_there_is_too_little_of_is_a_warning(lacking: dict[str, int], name: str, remedy: str):
    finding = named(check_host(replace(ENOUGH, **lacking)), name)  # type: ignore[arg-type]
    assert finding.status == Status.WARNING
    assert remedy in finding.remedy


def test_a_system_without_shared_memory_is_not_asked_for_it():
    names = [finding.name for finding in check_host(replace(ENOUGH, shared_memory_bytes=None))]
    assert "shared memory" not in names


def test_a_port_in_use_is_a_problem_with_the_option_that_changes_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        found = collect_host(Settings.model_validate({"http": {"port": number}}))
    finding = named(check_host(found), f"port {number}")
    assert finding.status == Status.PROBLEM
    assert "(Address already in use)" in finding.seen
    assert "--port (http.port)" in finding.remedy


def write_limits(folder: Path, version: int, limit: str) -> None:
    names = ("memory.max", "memory.current", "memory.stat")
    if version == 1:
        names = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
        (folder / "memory").mkdir()
    cached = "inactive_file" if version == 2 else "total_inactive_file"
    for name, content in zip(names, (limit, str(300 * 2**20), f"anon 7\n{cached} {100 * 2**20}\n"), strict=True):
        (folder / name).write_text(content)


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_before_the_machines_memory(tmp_path: Path, version: int):
    write_limits(tmp_path, version, str(512 * 2**20))
    total, free = container_memory(tmp_path) or (0, 0)
    assert total == 512 * 2**20
    assert free <= 312 * 2**20  # cached files can be dropped


@pytest.mark.parametrize("limit", ["max", str(2**62)])
def test_no_limit_is_the_machines_own(tmp_path: Path, limit: str):
    write_limits(tmp_path, 2, limit)
    assert psutil.virtual_memory().total < 2**62
    assert container_memory(tmp_path) is None


def test_a_system_without_cgroups_has_no_limit(tmp_path: Path):
    assert container_memory(tmp_path) is None
