"""The log's shape on the console and in the replicas."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import EngineFailed, ImageRejected, Overloaded
from serve_app.logs import LogFollower, follow_logs, format_line, join_serve_log, serve_logging
from serve_app.settings import LogSettings


def record(**fields: Any) -> str:
    return json.dumps({"name": "glm.access", "levelname": "INFO", "message": "POST /v1/ask 200 in 9 ms", **fields})


def test_our_records_are_shown_with_their_request_id():
    shown = format_line(record(request_id="r-1", timestamp_ns=0))
    assert shown is not None
    assert shown.endswith("info    POST /v1/ask 200 in 9 ms [r-1]")


def test_rays_own_messages_stay_in_the_files():
    assert format_line(record(name="ray.serve", message="Deploying new version")) is None
    assert format_line("not JSON") is None


def test_rays_warnings_are_shown():
    shown = format_line(record(name="ray.serve", levelname="WARNING", message="A replica died."))
    assert shown is not None
    assert shown.endswith("warning A replica died.")


@dataclass
class Followed:
    """A log file, what follows it, and the lines that were shown."""

    file: Path
    follower: LogFollower
    shown: list[str]


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    shown: list[str] = []
    return Followed(tmp_path / "replica.log", LogFollower(tmp_path, shown.append, as_json=True), shown)


def test_new_lines_are_shown_once_and_only_when_complete(followed: Followed):
    followed.file.write_text("one\ntw")
    followed.follower.show_new()
    assert followed.shown == ["one"]
    followed.file.write_text("one\ntwo\n")
    followed.follower.show_new()
    assert followed.shown == ["one", "two"]


def test_a_rotated_file_is_read_from_its_start(followed: Followed):
    followed.file.write_text("a long first line\n")
    followed.follower.show_new()
    followed.file.write_text("new\n")
    followed.follower.show_new()
    assert followed.shown == ["a long first line", "new"]


def rotate(file: Path) -> None:
    """What RotatingFileHandler does before it makes a new file."""
    file.rename(file.with_name(f"{file.name}.1"))


def test_no_line_is_lost_when_a_file_is_rotated(followed: Followed):
    followed.file.write_text("one\n")
    followed.follower.show_new()
    followed.file.write_text("one\ntwo\n")
    rotate(followed.file)
    followed.file.write_text("three, longer than what was read of the first file\n")
    followed.follower.show_new()
    followed.follower.show_new()
    assert followed.shown == ["one", "two", "three, longer than what was read of the first file"]


def test_the_console_log_goes_on_after_a_file_was_renamed_between_listing_and_reading(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that follows the files ended with a FileNotFoundError."""
    followed.file.write_text("one\n")
    followed.follower.show_new()
    followed.file.write_text("one\ntwo\n")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", lambda folder, pattern: [followed.file])
        rotate(followed.file)
        followed.follower.show_new()
    followed.file.write_text("three\n")
    followed.follower.show_new()
    assert followed.shown == ["one", "two", "three"]


def test_the_last_lines_are_shown_before_the_end(tmp_path: Path):
    shown: list[str] = []
    with follow_logs(tmp_path, shown.append, as_json=True):
        (tmp_path / "replica.log").write_text("the last line\n")
    assert shown == ["the last line"]


def test_our_records_reach_serves_handlers():
    seen: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    serve_log = logging.getLogger("ray.serve")
    handler = Handler()
    serve_log.addHandler(handler)
    level = serve_log.level
    serve_log.setLevel(logging.INFO)
    try:
        join_serve_log()
        logging.getLogger("glm.engine").info("model ready")
        _log_failure(serve_log, ImageRejected("image 1 is broken"))
        _log_failure(serve_log, Overloaded("every slot is taken"))
        _log_failure(serve_log, EngineFailed("out of memory"))
    finally:
        serve_log.removeHandler(handler)
        serve_log.setLevel(level)
    # Serve's traceback of a refused request is dropped; that of a failed engine is kept.
    assert [record.getMessage() for record in seen] == ["model ready", "EngineFailed"]


def _log_failure(log: logging.Logger, error: Exception) -> None:
    try:
        raise error
    except Exception:
        log.exception(type(error).__name__)


def test_serve_writes_json_and_no_line_per_hop():
    configuration = serve_logging(LogSettings(level="DEBUG"))
    assert configuration["encoding"] == "JSON"
    assert configuration["log_level"] == "DEBUG"
    assert configuration["enable_access_log"] is False


def test_the_log_folder_is_serves_own_unless_a_setting_names_one():
    assert "logs_dir" not in serve_logging(LogSettings())
    assert serve_logging(LogSettings(folder="/var/log/glm"))["logs_dir"] == "/var/log/glm"


def test_the_console_has_the_same_records_as_the_file(tmp_path: Path):
    file = logging.FileHandler(tmp_path / "replica.log")
    file.setFormatter(logging.Formatter('{"message": "%(message)s"}'))
    buffered = MemoryHandler(1, target=file)  # Serve puts its filters here, and the formatter on the file
    buffered.addFilter(lambda record: record.levelno >= logging.WARNING)
    written = io.StringIO()
    console = logging.StreamHandler(written)
    serve_log = logging.getLogger("ray.serve")
    level, added = serve_log.level, [console, buffered]
    for handler in added:
        serve_log.addHandler(handler)
    serve_log.setLevel(logging.INFO)
    try:
        join_serve_log()
        serve_log.warning("a replica died")
        serve_log.info("a message")
    finally:
        serve_log.setLevel(level)
        for handler in added:
            serve_log.removeHandler(handler)
        file.close()
    assert written.getvalue() == '{"message": "a replica died"}\n'
