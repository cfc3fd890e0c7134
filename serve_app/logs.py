"""One log for all processes: JSON with the request's id; the console shows it readably.

Rooms write to `logging.getLogger("glm.<room>")`. Inside a replica those records join the file that
Ray Serve keeps for it (`session_latest/logs/serve/`), which adds request id, deployment and replica.
A request leaves one record of ids, counts and times, never its text, pictures or credentials.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from serve_app.errors import ServiceError
from serve_app.settings import LogSettings

Say = Callable[[str], None]

_SHOWN_LEVELS = frozenset({"WARNING", "ERROR", "CRITICAL"})
_POLL_S = 0.2


def join_serve_log() -> None:
    """Send the records of `glm.*` to Serve's handlers; each deployment calls it when it starts."""
    serve_log = logging.getLogger("ray.serve")
    logging.getLogger("glm").parent = serve_log
    if _is_news not in serve_log.filters:
        serve_log.addFilter(_is_news)
    _write_alike(serve_log.handlers)


def _write_alike(handlers: list[logging.Handler]) -> None:
    """The console gets the records as the file has them: Serve itself writes JSON to files alone.

    There is a console handler where RAY_SERVE_LOG_TO_STDERR is set: in a pod, whose log is what it writes there.
    """
    for file in handlers:
        if isinstance(file, MemoryHandler) and file.target is not None:
            for console in handlers:
                if type(console) is logging.StreamHandler:
                    console.setFormatter(file.target.formatter)
                    for each in file.filters:
                        console.addFilter(each)


def _is_news(record: logging.LogRecord) -> bool:
    """False for Serve's traceback of a request that we refused: our own records tell of it."""
    refusal = record.exc_info[1] if record.exc_info else None
    return not (isinstance(refusal, ServiceError) and refusal.status != ServiceError.status)


def serve_logging(settings: LogSettings) -> dict[str, Any]:
    """Ray Serve's logging configuration: JSON, and our own access record instead of Serve's line a hop."""
    return {
        "encoding": "JSON",
        "log_level": settings.level,
        "enable_access_log": False,
        "additional_log_standard_attrs": ["name"],
    }


def readable(line: str) -> str | None:
    """One JSON record as a console line; None for Ray's own chatter, which stays in the files."""
    try:
        record = json.loads(line)
        name, level, message = record["name"], record["levelname"], record["message"]
    except (ValueError, KeyError, TypeError):
        return None
    if not name.startswith("glm") and level not in _SHOWN_LEVELS:
        return None
    at = datetime.fromtimestamp(record.get("timestamp_ns", 0) / 1e9).strftime("%H:%M:%S")
    words = [at, level.lower().ljust(7), message]
    if (request_id := record.get("request_id")) and request_id not in message:
        words.append(f"[{request_id}]")
    if traceback := record.get("exc_text"):
        words.append("\n" + traceback)
    return " ".join(words)


@contextmanager
def following(folder: Path, say: Say, *, as_json: bool = False) -> Iterator[None]:
    """Shows what the replicas write while the service runs in the foreground."""
    follower = Follower(folder, say, as_json=as_json)
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


class Follower:
    """Reads log files as they grow."""

    def __init__(self, folder: Path, say: Say, *, as_json: bool = False) -> None:
        self._folder = folder
        self._say = say
        self._as_json = as_json
        self._seen: dict[Path, int] = {}  # bytes of each file

    def show_new(self) -> None:
        for file in sorted(self._folder.glob("*.log")):
            for line in self._new_lines(file):
                shown = line if self._as_json else readable(line)
                if shown:
                    self._say(shown)

    def _new_lines(self, file: Path) -> list[str]:
        seen = self._seen.get(file, 0)
        with file.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) < seen:  # rotated
                seen = 0
            stream.seek(seen)
            whole, newline, _ = stream.read().rpartition(b"\n")
        self._seen[file] = seen + len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()
