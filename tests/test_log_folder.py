"""Folders of `glm-serve up`: where the logs are, how many runs are kept, and what another user can reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ray._common.utils import try_to_create_directory

from serve_app.settings import LogSettings, default_log_folder
from serve_app.standalone.log_folder import create_run_folder, keep_ray_logs
from serve_app.standalone.private_ray import private_folder
from tests.nobody import run_as_nobody

NO_PROCESS = 2**22 + 1  # above the largest pid


def test_logs_are_in_the_state_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_log_folder() == tmp_path / ".local/state/glm-vision-serve/logs"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_log_folder() == Path("/state/glm-vision-serve/logs")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the specification: to be ignored
    assert default_log_folder() == tmp_path / ".local/state/glm-vision-serve/logs"


def test_a_setting_names_another_folder(tmp_path: Path):
    folder = create_run_folder(LogSettings(folder=str(tmp_path / "a" / "b")))
    assert folder.parent == tmp_path / "a" / "b"
    assert folder.name.endswith(f"_{os.getpid()}")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_oldest_ended_runs_are_removed(tmp_path: Path):
    ended = [tmp_path / f"2026-11-{day:02}_10-00-00_{NO_PROCESS}" for day in range(1, 8)]
    running = tmp_path / f"2026-01-01_00-00-00_{os.getppid()}"
    other = tmp_path / "something else"
    for folder in (*ended, running, other):
        folder.mkdir()
        (folder / "replica.log").write_text("a line\n")
    new = create_run_folder(LogSettings(folder=str(tmp_path), kept_runs=3))
    assert set(tmp_path.iterdir()) == {new, running, other, *ended[-2:]}


def test_rays_logs_are_kept(tmp_path: Path):
    ray, run = tmp_path / "ray", tmp_path / "run"
    (ray / "session_latest" / "logs").mkdir(parents=True)
    run.mkdir()
    (ray / "session_latest" / "logs" / "raylet.out").write_text("started\n")
    (ray / "output.log").write_text("a warning\n")
    keep_ray_logs(ray, run)
    assert (run / "ray" / "raylet.out").read_text() == "started\n"
    assert (run / "ray" / "output.log").read_text() == "a warning\n"


def test_a_ray_that_never_started_has_no_logs(tmp_path: Path):
    keep_ray_logs(tmp_path / "nowhere", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_reaches_no_folder_of_this_run(tmp_path: Path):
    temporary = private_folder()
    ray = temporary / "ray"
    try_to_create_directory(ray)  # as Ray does, for everyone to write to
    assert ray.stat().st_mode & 0o777 == 0o777
    logs = create_run_folder(LogSettings(folder=str(temporary / "logs")))
    for path in (ray, logs):
        assert "PermissionError" in run_as_nobody(f"open({str(path / 'x')!r}, 'w')").stderr
    logs.rmdir()
    ray.rmdir()
    logs.parent.rmdir()
    temporary.rmdir()
