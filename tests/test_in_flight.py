"""Requests in progress in the processes of a pod, as `glm-serve drain` reads them from their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.in_flight import FOLDER, Activity, InFlight, folder_of_pod, read_activity


def test_only_a_worker_of_kuberay_counts():
    assert folder_of_pod({"FQ_RAY_IP": "glm-head-svc.glm.svc.cluster.local"}) == FOLDER
    assert folder_of_pod({}) is None


def test_a_pod_without_requests_has_no_activity(tmp_path: Path):
    assert read_activity(tmp_path / "absent") == Activity(0, None)
    InFlight(tmp_path)
    assert read_activity(tmp_path) == Activity(0, None)


def test_begin_and_end_of_a_request_are_seen_from_outside(tmp_path: Path):
    now = 10.0
    in_flight = InFlight(tmp_path, clock=lambda: now)
    with in_flight:
        now = 11.0
        with in_flight:
            assert read_activity(tmp_path) == Activity(2, 11.0)
        now = 12.0
    assert read_activity(tmp_path) == Activity(0, 12.0)


def test_a_request_that_fails_has_ended(tmp_path: Path):
    in_flight = InFlight(tmp_path, clock=lambda: 5.0)
    with pytest.raises(ValueError, match="broken"), in_flight:
        raise ValueError("broken")
    assert read_activity(tmp_path) == Activity(0, 5.0)


def test_what_a_killed_process_has_left_does_not_count(tmp_path: Path):
    with InFlight(tmp_path, clock=lambda: 5.0):
        (tmp_path / str(os.getpid())).rename(tmp_path / "999999999")
        assert read_activity(tmp_path) == Activity(0, 5.0)


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with InFlight(None):
        assert list(tmp_path.iterdir()) == []
