"""One JSON log for all processes, with the request's id; the console shows it as plain lines.

Each package logs to `logging.getLogger("glm.<package>")`. Inside a replica these records go to the file that Ray
Serve writes for it (in `log.folder`, or `session_latest/logs/serve/`), which adds request id, deployment and replica.
A request has one record of ids, counts and times, never its text, pictures or credentials.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, BinaryIO

from serve_app.errors import ServiceError
from serve_app.settings import LogSettings

WriteLine = Callable[[str], None]

_CONSOLE_LEVELS = frozenset({"WARNING", "ERROR", "CRITICAL"})
_POLL_S = 0.2


def join_serve_log() -> None:
    """Send the records of `glm.*` to Serve's handlers; each deployment calls it when it starts."""
    serve_log = logging.getLogger("ray.serve")
    logging.getLogger("glm").parent = serve_log
    if _is_not_refusal not in serve_log.filters:
        serve_log.addFilter(_is_not_refusal)
    _copy_format_to_console(serve_log.handlers)


def _copy_format_to_console(handlers: list[logging.Handler]) -> None:
    """Makes the console handler write what the file has: Serve itself writes JSON to files only.

    There is a console handler where RAY_SERVE_LOG_TO_STDERR is set: in a pod, whose log is its standard error.
    """
    for file in handlers:
        if isinstance(file, MemoryHandler) and file.target is not None:
            for console in handlers:
                if type(console) is logging.StreamHandler:
                    console.setFormatter(file.target.formatter)
                    for record_filter in file.filters:
                        console.addFilter(record_filter)


def _is_not_refusal(record: logging.LogRecord) -> bool:
    """False for Serve's traceback of a request that we refused: our own record has the error."""
    refusal = record.exc_info[1] if record.exc_info else None
    return not (isinstance(refusal, ServiceError) and refusal.status != ServiceError.status)


def serve_logging(settings: LogSettings) -> dict[str, Any]:
    """Ray Serve's logging configuration: JSON, and our own access record instead of Serve's line per hop."""
    return {
        "encoding": "JSON",
        "log_level": settings.level,
        "enable_access_log": False,
        "additional_log_standard_attrs": ["name"],
        **({"logs_dir": settings.folder} if settings.folder else {}),
    }


def format_line(line: str) -> str | None:
    """One JSON record as a console line; None for Ray's own messages below warnings, which stay in the files."""
    try:
        record = json.loads(line)
        name, level, message = record["name"], record["levelname"], record["message"]
    except (ValueError, KeyError, TypeError):
        return None
    if not name.startswith("glm") and level not in _CONSOLE_LEVELS:
        return None
    at = datetime.fromtimestamp(record.get("timestamp_ns", 0) / 1e9).strftime("%H:%M:%S")
    parts = [at, level.lower().ljust(7), message]
    if (request_id := record.get("request_id")) and request_id not in message:
        parts.append(f"[{request_id}]")
    if traceback := record.get("exc_text"):
        parts.append("\n" + traceback)
    return " ".join(parts)


@contextmanager
def follow_logs(folder: Path, write_line: WriteLine, *, as_json: bool = False) -> Iterator[None]:
    """Writes the replicas' new log lines to the console while the service runs in the foreground."""
    follower = LogFollower(folder, write_line, as_json=as_json)
    stopped = threading.Event()

    def follow() -> None:
        while not stopped.wait(_POLL_S):
            follower.show_new()

    thread = threading.Thread(target=follow, name="log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        follower.show_new()
        follower.close()


@dataclass
class _LogFile:
    """An open log file and how many bytes of it have been read."""

    stream: BinaryIO
    read_bytes: int = 0

    def new_lines(self) -> list[str]:
        """The complete lines that have not been read."""
        if self.stream.seek(0, os.SEEK_END) < self.read_bytes:  # emptied, and written again
            self.read_bytes = 0
        self.stream.seek(self.read_bytes)
        lines, newline, _ = self.stream.read().rpartition(b"\n")
        self.read_bytes += len(lines) + len(newline)
        return lines.decode(errors="replace").splitlines()

    def is_at(self, path: Path) -> bool:
        """False after the file was renamed: it is rotated."""
        try:
            return os.path.samestat(os.fstat(self.stream.fileno()), path.stat())
        except FileNotFoundError:
            return False


class LogFollower:
    """Reads log files as they grow.

    Files stay open, so that the last lines of one that is rotated are read under its new name.
    """

    def __init__(self, folder: Path, write_line: WriteLine, *, as_json: bool = False) -> None:
        self._folder = folder
        self._write_line = write_line
        self._as_json = as_json
        self._files: dict[Path, _LogFile] = {}

    def show_new(self) -> None:
        """Writes the complete lines that are new since the last call."""
        for path in sorted({*self._folder.glob("*.log"), *self._files}):
            for line in self._new_lines(path):
                shown = line if self._as_json else format_line(line)
                if shown:
                    self._write_line(shown)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.stream.close()
        self._files.clear()

    def _new_lines(self, path: Path) -> list[str]:
        lines = []
        if (file := self._files.get(path)) is not None:
            renamed = not file.is_at(path)  # before it is read: what is written after a renaming is in the new file
            lines = file.new_lines()
            if not renamed:
                return lines
            self._files.pop(path).stream.close()
        try:
            file = self._files[path] = _LogFile(path.open("rb"))
        except FileNotFoundError:  # renamed since the folder was listed
            return lines
        return lines + file.new_lines()
