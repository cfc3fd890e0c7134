"""The files of an audit folder: their names, their lines, their last lines, and those whose time is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from serve_app.audit.chain import BrokenLine, Head, decode_line

SUFFIX: Final = ".audit.jsonl"
_TAIL_BYTES: Final = 64 * 1024


def audit_files(folder: Path) -> list[Path]:
    """All files in the order in which they were begun; their names begin with the time."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def lines_of(file: Path) -> Iterator[tuple[int, bytes]]:
    """The place in the file and the bytes of each line; a last line that is not complete has no line feed."""
    place = 0
    with file.open("rb") as stream:
        for line in stream:
            yield place, line
            place += len(line)


def head_of(file: Path) -> Head | None:
    """The last complete line; None if there is none that is valid."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read()
        if tail.count(b"\n") < 2 and size > len(tail):  # a line longer than the tail
            stream.seek(0)
            tail = stream.read()
    complete = tail[: tail.rfind(b"\n") + 1]
    try:
        return decode_line(complete.splitlines()[-1])[1]
    except (BrokenLine, IndexError):
        return None


def expired_files(folder: Path, retention_s: float, now: float) -> list[Path]:
    """Files whose last line is older than the retention time."""
    return [file for file in audit_files(folder) if now - file.stat().st_mtime > retention_s]


def replace_in_file(file: Path, place: int, data: bytes) -> None:
    """Overwrites bytes of the same length; the time of the file's last line stays."""
    before = file.stat()
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, place)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
