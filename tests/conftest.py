"""Under CI a skipped test fails; under pytest-xdist, tests that start services run in a process of their own."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.conformance import environments
from tests.redis_server import RedisServer

# Before torch is imported. The models of these tests are tiny: a second thread mostly waits for the first, and where
# other processes have the cores, each of its waits takes a time slice.
os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ["LC_ALL"] = "C.UTF-8"  # messages of glm-serve are English, whichever language the developer has

if not Path("/dev/nvidia0").exists():  # then Triton's interpreter runs the kernels; it reads this as they are defined
    os.environ.setdefault("TRITON_INTERPRET", "1")


if not os.environ.get("CI"):  # there, Hypothesis has a profile of its own without a deadline
    settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("local")


# Tests that start services: they measure time-outs and share ports, so they run one after the other.
SERVICES = ("tests/cluster/", "tests/conformance/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Two processes of pytest-xdist: services, which wait much, and all other tests, which compute."""
    from xdist.scheduler import LoadScopeScheduling

    class ServicesAndOthers(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "services" if nodeid.startswith(SERVICES) else "others"

    return ServicesAndOthers(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Environments of other people's clients are installed while the services before them are tested."""
    if item.nodeid.startswith(SERVICES):
        _install_clients(item.session)


@functools.cache
def _install_clients(session: pytest.Session) -> None:
    if any(item.get_closest_marker("conformance") for item in session.items):
        threading.Thread(target=environments.install_all, daemon=True).start()


def _refuse_skip(report: Any) -> None:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} must not be skipped under CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def within_a_window(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """The clock of limits in this process. Their windows begin at multiples of their length, not while a test runs.

    It would be admitted once more there: of one request in the window before, floor(0.9999) are counted.
    """
    shift_s = 1502 - time.time() % 1500  # 2 s after a multiple of 10, 50, 60 and 125 s
    clock = SimpleNamespace(time=lambda: time.time() + shift_s)
    monkeypatch.setattr("limits.aio.storage.memory.time", clock)
    monkeypatch.setattr("serve_app.access.counters.time", clock)
    return clock.time
