"""Under CI a skipped test fails; under pytest-xdist, tests that start services run in a process of their own."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import environments

# Before torch is imported. The models of these tests are tiny: a second thread mostly waits for the first, and where
# other processes have the cores, each of its waits takes a time slice.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SERVICES = ("cluster", "conformance")  # these measure time-outs and share ports and cores: one after the other
NICENESS = 10  # of the other tests beside them

if not Path("/dev/nvidia0").exists():  # then Triton's interpreter runs the kernels; it reads this as they are defined
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two groups for `--dist loadgroup`: services wait much and compute little, the others the other way round."""
    for item in items:
        group = "services" if any(item.get_closest_marker(name) for name in SERVICES) else "others"
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """In a worker of xdist, tests that compute leave the cores to the services whenever those need them.

    Environments of other people's clients are installed while the services before them are tested.
    """
    (group,) = item.iter_markers("xdist_group")
    if group.args == ("services",):
        _install_clients(item.session)
    elif "PYTEST_XDIST_WORKER" in os.environ and os.nice(0) < NICENESS:
        os.nice(NICENESS)


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
