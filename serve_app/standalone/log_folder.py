"""Folder of the logs of `glm-serve up`: one for each run, kept after its end; the oldest are removed."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from serve_app.settings import LogSettings, default_log_folder

MAX_FILE_BYTES: Final = 16 * 2**20  # then a log file is rotated
ROTATED_FILES: Final = 4  # that are kept of each log file
OUTPUT: Final = "output.log"  # of this process while Ray runs, in Ray's folder
RAY_LOGS: Final = "ray"  # subfolder with Ray's own logs, moved there at the end of a run
_RUN = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_(?P<pid>\d+)")


def create_run_folder(settings: LogSettings) -> Path:
    """A new folder for the logs of this process, readable by its user only; removes the oldest of earlier runs.

    Raises OSError if the folder can't be created.
    """
    parent = Path(settings.folder).expanduser().absolute() if settings.folder else default_log_folder()
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = parent / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    folder.mkdir(mode=0o700)
    ended = [
        run
        for run in sorted(parent.iterdir())
        if (name := _RUN.fullmatch(run.name)) and not psutil.pid_exists(int(name["pid"]))
    ]
    for run in ended[: max(0, len(ended) + 1 - settings.kept_runs)]:
        shutil.rmtree(run, ignore_errors=True)
    return folder


def keep_ray_logs(ray_folder: Path, run_folder: Path) -> None:
    """Copy the logs of Ray's last session, which are in a temporary folder, to those of this run."""
    with suppress(OSError):  # Ray has not started, or the disk is full: neither keeps the service from its normal end
        shutil.copytree(
            ray_folder / "session_latest" / "logs",
            run_folder / RAY_LOGS,
            symlinks=True,
            ignore_dangling_symlinks=True,
        )
        shutil.copy(ray_folder / OUTPUT, run_folder / RAY_LOGS / OUTPUT)
