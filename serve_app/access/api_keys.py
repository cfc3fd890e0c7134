"""API keys: finds the entry of a presented key in the file of keys, which is read again when it changes."""

from __future__ import annotations

import hmac
import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serve_app.access.key_file import ID_LENGTH, KeyEntry, KeyFile, TenantEntry, hash_key, read_key_file
from serve_app.errors import InvalidRequest

CHECK_S: Final = 1.0  # between two looks at the file's time

_log = logging.getLogger("glm.access.keys")


class ApiKeys:
    """The keys and tenants of a file. A file that becomes invalid leaves the last valid content in force."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._checked_at = -CHECK_S
        self._version: tuple[int, int, int] | None = None  # inode, time and size of what was read
        self._entries: dict[str, list[KeyEntry]] = {}
        self._tenants: dict[str, TenantEntry] = {}
        self._is_missing = False

    def find(self, key: str) -> KeyEntry | None:
        """The entry of this key, expired or not."""
        self._refresh()
        digest = hash_key(key)
        found = None
        for entry in self._entries.get(digest[:ID_LENGTH], ()):
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return found

    def tenant(self, name: str) -> TenantEntry:
        self._refresh()
        return self._tenants.get(name) or _UNKNOWN_TENANT

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked_at < CHECK_S:
            return
        self._checked_at = now
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if version == self._version:
                return
            content = read_key_file(self._path)
        except FileNotFoundError:
            self._use(KeyFile(), None)
            if not self._is_missing:
                _log.warning("The file of keys %s does not exist, so no key is valid.", self._path)
            self._is_missing = True
        except (InvalidRequest, OSError) as error:
            _log.error("The file of keys can't be read; the last valid one stays in force. %s", error)
        else:
            self._use(content, version)
            self._is_missing = False
            _log.info("%d keys and %d tenants were read from %s.", len(content.keys), len(content.tenants), self._path)

    def _use(self, content: KeyFile, version: tuple[int, int, int] | None) -> None:
        entries: defaultdict[str, list[KeyEntry]] = defaultdict(list)
        for entry in content.keys:
            entries[entry.id].append(entry)
        self._entries, self._tenants, self._version = dict(entries), content.tenants, version


_UNKNOWN_TENANT: Final = TenantEntry()
