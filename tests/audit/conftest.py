"""An audit folder and its writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.audit.writer import AuditWriter
from serve_app.settings_audit import AuditSettings
from tests.fakes import FakeMeter

MakeWriter = Callable[..., AuditWriter]


@pytest.fixture
def make_writer(tmp_path: Path) -> Iterator[MakeWriter]:
    """Makes writers of `tmp_path / "audit"`."""
    writers: list[AuditWriter] = []

    def make(meter: FakeMeter | None = None, **settings: Any) -> AuditWriter:
        chosen = AuditSettings(**{"mode": "required", "folder": str(tmp_path / "audit"), **settings})
        writers.append(AuditWriter(chosen, meter or FakeMeter()))
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def write(writer: AuditWriter, *callers: str, **fields: Any) -> None:
    """One line of a request for each caller."""
    for caller in callers:
        given = {"time": "2026-11-29T19:00:00.000+00:00", "tenant": "default", **fields}
        writer.write("request", given, {"caller": caller, "question": f"of {caller}", "answer": "42"}).result(5)
