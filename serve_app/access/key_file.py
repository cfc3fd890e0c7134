"""The file of API keys: hashed keys with scopes, expiry and limits, and tenants with classes and limits."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve_app.caller import DEFAULT_TENANT, SCOPES, CallerLimits, Lane, Scope
from serve_app.errors import InvalidRequest

PREFIX: Final = "glm-"  # so that scanners of source code can find keys
KEY_BYTES: Final = 32
ID_LENGTH: Final = 12  # hex digits of a key's id

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@:-]{0,127}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LimitEntry(_Entry):
    """Limits of a key or tenant; one that is left out is that of the settings, 0 is no limit."""

    requests_per_second: float | None = Field(None, ge=0)
    concurrent_requests: int | None = Field(None, ge=0)
    tokens_per_minute: int | None = Field(None, ge=0)
    pictures_per_minute: int | None = Field(None, ge=0)

    def over(self, default: CallerLimits) -> CallerLimits:
        """These limits, with `default` for those that are left out."""
        return CallerLimits(
            *(
                given if (given := getattr(self, name)) is not None else getattr(default, name)
                for name in LimitEntry.model_fields
            )
        )


class KeyEntry(_Entry):
    """One API key. Several keys of one caller are one caller: so a key is replaced without an interruption."""

    caller: Name
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    tenant: Name = DEFAULT_TENANT
    scopes: tuple[Scope, ...] = ("inference",)
    lane: Lane = "interactive"
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    limits: LimitEntry = LimitEntry()

    @property
    def id(self) -> str:
        """The beginning of the hash: it names the key in lists and does not help to guess it."""
        return self.sha256[:ID_LENGTH]

    def is_expired(self, now: float) -> bool:
        return self.expires is not None and self.expires.timestamp() <= now


class TenantEntry(_Entry):
    """A tenant: its class in metrics, and limits of all its callers together."""

    metric_class: str = ""
    limits: LimitEntry = LimitEntry()


class KeyFile(_Entry):
    """The content of the file."""

    keys: tuple[KeyEntry, ...] = ()
    tenants: dict[Name, TenantEntry] = {}


def hash_key(key: str) -> str:
    """SHA-256 as hex digits. A key has 256 random bits, so a slow hash would protect nothing more."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_key_file(path: Path) -> KeyFile:
    """Raises InvalidRequest if the file is not valid, OSError if it can't be read."""
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the document"
        raise InvalidRequest(f"The file of keys {path} is not valid: {place}: {first['msg']}.") from error


def add_key(path: Path, entry: KeyEntry) -> None:
    """Appends a key; the file is created if it does not exist."""
    _change(path, lambda content: content.model_copy(update={"keys": (*content.keys, entry)}))


def revoke_keys(path: Path, name: str) -> list[KeyEntry]:
    """Removes the key of this id, or all keys of this caller, and returns them. Raises InvalidRequest if none is."""
    revoked: list[KeyEntry] = []

    def without(content: KeyFile) -> KeyFile:
        revoked.extend(key for key in content.keys if name in (key.id, key.caller))
        if not revoked:
            raise InvalidRequest(f"The file {path} has no key with the id or caller '{name}'.")
        return content.model_copy(update={"keys": tuple(key for key in content.keys if key not in revoked)})

    _change(path, without)
    return revoked


def new_key(
    caller: str,
    *,
    tenant: str = DEFAULT_TENANT,
    scopes: tuple[Scope, ...] = SCOPES[:1],
    lane: Lane = "interactive",
    expires: datetime | None = None,
    limits: LimitEntry | None = None,
) -> tuple[str, KeyEntry]:
    """A random key, which is shown once, and its entry. Raises InvalidRequest."""
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    try:
        entry = KeyEntry(
            caller=caller,
            sha256=hash_key(key),
            tenant=tenant,
            scopes=scopes,
            lane=lane,
            created=datetime.now(UTC).replace(microsecond=0),
            expires=expires,
            limits=limits or LimitEntry(),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(f"{first['loc'][0]} is {first['input']!r}. {first['msg'].rstrip('.')}.") from error
    return key, entry


def _change(path: Path, change: Callable[[KeyFile], KeyFile]) -> None:
    """Replaces the file by its changed content: a reader sees the old or the new one, and two writers take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changed = change(read_key_file(path) if path.exists() else KeyFile())
        text = json.dumps(changed.model_dump(mode="json", exclude_defaults=True), indent=2, ensure_ascii=False)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # readable by its owner only
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        if path.exists():
            os.chmod(temporary, path.stat().st_mode & 0o777)
        os.replace(temporary, path)
    finally:
        os.close(lock)
