"""Writes the audit log from a thread of its own: lines in batches, files by size, expired files deleted.

Each file begins with a genesis line, which names the last lines of all other files of the folder. So the files of all
replicas and of all restarts are linked, and a file that is missing or cut off is found once a later file exists.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from serve_app import __version__
from serve_app.audit.chain import START, Head, encode_line
from serve_app.audit.files import SUFFIX, audit_files, expired_files, head_of
from serve_app.errors import AuditUnavailable
from serve_app.metrics import AUDIT_FAILURES, AUDIT_LINES, Meter
from serve_app.settings_audit import AuditSettings

FORMAT: Final = 1
RETRY_S: Final = 1.0  # after a failure
BATCH: Final = 256
MAX_QUEUED: Final = 10_000  # lines, where the disk does not respond
LINKED_FILES: Final = 1000
_DAY_S: Final = 86400.0
_HOUR_S: Final = 3600.0

_log = logging.getLogger("glm.audit")


@dataclass(frozen=True, slots=True)
class _Item:
    fields: dict[str, Any]
    personal: dict[str, Any] | None
    written: Future[None]


class AuditWriter:
    """One writer of an audit folder; several processes may write to the same folder, each to files of its own."""

    def __init__(self, settings: AuditSettings, meter: Meter, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._folder = Path(settings.folder)
        self._meter = meter
        self._now = now
        self._name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._files = 0
        self._file: int | None = None  # descriptor
        self._size = 0
        self._head = Head(-1, START)
        self._synced_at = self._cleaned_at = time.monotonic()
        self._lost = 0  # lines, since the failure began
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        with suppress(OSError):  # a folder that can't be made is a failure of each line
            self._remove_expired()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._lost > 0

    def write(self, kind: str, fields: dict[str, Any], personal: dict[str, Any] | None = None) -> Future[None]:
        """Queues a line; the future ends when it is in the file, or with AuditUnavailable."""
        written: Future[None] = Future()
        if self._queue.qsize() > MAX_QUEUED:
            written.set_exception(AuditUnavailable("The audit log is too slow for the load. Try again later."))
            self._meter.count(AUDIT_FAILURES)
            return written
        salted = None if personal is None else {**personal, "salt": secrets.token_hex(16)}
        self._queue.put(_Item({"kind": kind, **fields}, salted, written))
        return written

    def close(self) -> None:
        """Writes what is queued and closes the file."""
        self._queue.put(None)
        self._thread.join(timeout=10)

    # -- the thread

    def _run(self) -> None:
        closing = False
        while not closing:
            items = self._take()
            closing = None in items
            batch = [item for item in items if item is not None]
            try:
                self._write(batch)
            except OSError as error:
                self._fail(batch, error)
                continue
            for item in batch:
                item.written.set_result(None)
            self._meter.count(AUDIT_LINES, len(batch))
            try:  # after the answers' lines: nobody waits for the disk
                self._sync()
                self._clean()
            except OSError as error:
                self._fail([], error)
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file)
            os.close(self._file)

    def _take(self) -> list[_Item | None]:
        """What waits; nothing after a second, so that a failure is retried and the disk gets its lines."""
        items: list[_Item | None] = []
        with suppress(queue.Empty):
            items.append(self._queue.get(timeout=RETRY_S))
            while len(items) < BATCH:
                items.append(self._queue.get_nowait())
        return items

    def _write(self, batch: list[_Item]) -> None:
        if not batch and not self._lost:
            return
        if self._file is None or self._size >= self._settings.max_file_mib * 2**20:
            self._begin_file()
        lines, head = [], self._head
        if self._lost:
            line, head = self._line({"kind": "resumed", "time": self._time(), "lines_lost": self._lost}, None, head)
            lines.append(line)
        for item in list(batch):
            try:
                line, head = self._line(item.fields, item.personal, head)
            except TypeError:  # orjson: a value that JSON can't have; it must not end this thread
                _log.exception("A line of the audit log can't be written.")
                batch.remove(item)
                self._refuse(item)
            else:
                lines.append(line)
        self._append(b"".join(lines))
        self._head = head
        if self._lost:
            _log.warning("The audit log is written again; %d lines were lost.", self._lost)
            self._lost = 0

    def _line(self, fields: dict[str, Any], personal: dict[str, Any] | None, after: Head) -> tuple[bytes, Head]:
        return encode_line(after.seq + 1, after.hash, fields, personal)

    def _append(self, data: bytes) -> None:
        """All of the bytes or none: what was written of them before an error is cut off again."""
        assert self._file is not None
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
            if self._settings.fsync == "always":
                os.fsync(self._file)
        except OSError:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self._abandon_file()
            raise
        self._size += len(data)

    def _begin_file(self) -> None:
        """A new file with its genesis line, which links it to the last lines of all others."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        others = audit_files(self._folder)[-LINKED_FILES:]
        heads = {file.name: asdict(head) for file in others if (head := head_of(file)) is not None}
        self._files += 1
        path = self._folder / f"{self._time('%Y%m%dT%H%M%S%fZ')}-{self._name}-{self._files}{SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        previous, self._file = self._file, descriptor
        if previous is not None:
            os.fsync(previous)
            os.close(previous)
        self._size = 0
        genesis = {"kind": "genesis", "time": self._time(), "format": FORMAT, "writer": self._name}
        line, head = encode_line(0, self._head.hash, {**genesis, "version": __version__, "heads": heads}, None)
        try:
            self._append(line)
        except OSError:
            self._abandon_file()
            path.unlink(missing_ok=True)
            raise
        self._head = head

    def _abandon_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _sync(self) -> None:
        due = time.monotonic() - self._synced_at >= RETRY_S
        if self._settings.fsync == "interval" and due and self._file is not None:
            self._synced_at = time.monotonic()
            os.fsync(self._file)

    def _clean(self) -> None:
        if time.monotonic() - self._cleaned_at >= _HOUR_S:
            self._remove_expired()

    def _remove_expired(self) -> None:
        """Deletes files whose time is over, after a line that says so."""
        self._cleaned_at = time.monotonic()
        if not self._settings.retention_days or not self._folder.is_dir():
            return
        for file in expired_files(self._folder, self._settings.retention_days * _DAY_S, self._now()):
            head = head_of(file)
            fields = {"time": self._time(), "file": file.name, "head": asdict(head) if head else None}
            self.write("removed", fields).add_done_callback(partial(_remove, file))

    def _fail(self, batch: list[_Item], error: OSError) -> None:
        if not self._lost:
            _log.error("The audit log can't be written: %s.", error)
        self._lost = max(1, self._lost + len(batch))
        if not batch:
            self._meter.count(AUDIT_FAILURES)
        for item in batch:
            self._refuse(item)

    def _refuse(self, item: _Item) -> None:
        self._meter.count(AUDIT_FAILURES)
        item.written.set_exception(
            AuditUnavailable("The audit log can't be written, and no answer is given without it. Try again later.")
        )

    def _time(self, format: str = "") -> str:
        time_utc = datetime.fromtimestamp(self._now(), UTC)
        return time_utc.strftime(format) if format else time_utc.isoformat(timespec="milliseconds")


def _remove(file: Path, recorded: Future[None]) -> None:
    if recorded.exception() is None:
        file.unlink(missing_ok=True)
