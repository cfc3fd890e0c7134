"""`glm-serve keys`: adds, lists and revokes API keys in the file that `access.keys_file` names."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serve_app.caller import DEFAULT_TENANT, SCOPES
from serve_app.errors import InvalidRequest

if TYPE_CHECKING:
    from serve_app.access.key_file import LimitEntry

# Slow imports are inside the functions, so that `--help` starts at once.

DESCRIPTION = """\
Make, list and revoke API keys. The file has hashes of keys, never the keys; a running service reads it again within
two seconds of a change.

  glm-serve keys add shop --file keys.json           make a key for the caller `shop` and print it, once
  glm-serve keys list --file keys.json               callers, tenants, scopes, expiry and ids of keys
  glm-serve keys revoke 3f2a… --file keys.json       revoke a key by its id, or all keys of a caller

To replace a key without an interruption, add a second one for the same caller, change the clients, revoke the first.
--file can be left out where GLM_ACCESS__KEYS_FILE is set.
"""
# (option, entry of the limits, type, help)
LIMITS: tuple[tuple[str, str, Any, str], ...] = (
    ("--requests-per-second", "requests_per_second", float, "limit of the caller's requests per second"),
    ("--concurrent-requests", "concurrent_requests", int, "limit of its requests in progress"),
    ("--tokens-per-minute", "tokens_per_minute", int, "limit of its tokens per minute, of prompts and answers"),
    ("--pictures-per-minute", "pictures_per_minute", int, "limit of its pictures per minute"),
)


def add_arguments(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    add = actions.add_parser("add", help="make a key and print it")
    add.add_argument("caller", metavar="CALLER", help="name of the caller, which the log has")
    add.add_argument("--tenant", default=DEFAULT_TENANT, metavar="NAME", help=f"its tenant (default: {DEFAULT_TENANT})")
    add.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help="what the key may do; repeat for several (default: inference)",
    )
    add.add_argument("--lane", choices=("interactive", "batch"), default="interactive", help="default: interactive")
    add.add_argument("--expires-in-days", type=float, metavar="N", help="the key ends after so many days")
    for option, name, kind, text in LIMITS:
        add.add_argument(option, dest=name, type=kind, metavar="N", help=f"{text} (default: that of the service)")
    listing = actions.add_parser("list", help="list the keys")
    revoke = actions.add_parser("revoke", help="revoke a key, or all keys of a caller")
    revoke.add_argument("key", metavar="ID", help="id of the key, or name of the caller")
    for action in (add, listing, revoke):
        action.add_argument("--file", metavar="FILE", help="file of keys (default: access.keys_file)")


def run(options: argparse.Namespace, file: str) -> int:
    """Runs the action on `file`, which is empty if neither the command nor the settings name one; the exit status."""
    try:
        if not file:
            raise InvalidRequest("The file of keys is not known. Give it as --file FILE, or set GLM_ACCESS__KEYS_FILE.")
        ACTIONS[options.action](options, Path(file))
    except InvalidRequest as error:
        print(f"glm-serve: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"glm-serve: The file of keys {file} can't be read or written: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def _add(options: argparse.Namespace, file: Path) -> None:
    from serve_app.access.key_file import add_key, new_key

    key, entry = new_key(
        options.caller,
        tenant=options.tenant,
        scopes=tuple(options.scope or SCOPES[:1]),
        lane=options.lane,
        expires=_expiry(options.expires_in_days),
        limits=_limits(options),
    )
    add_key(file, entry)
    print(f"The key {entry.id} of {entry.caller} was added to {file}. It is shown only now:", file=sys.stderr)
    print(key)


def _expiry(days: float | None) -> datetime | None:
    if days is None:
        return None
    try:
        return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    except (OverflowError, ValueError) as error:
        raise InvalidRequest(
            f"--expires-in-days is {days:g}, which gives no date of the years 1 to 9999. Leave it out for a key without"
            " an end."
        ) from error


def _limits(options: argparse.Namespace) -> LimitEntry:
    from pydantic import ValidationError

    from serve_app.access.key_file import LimitEntry

    try:
        return LimitEntry(**{name: getattr(options, name) for _, name, _, _ in LIMITS})
    except ValidationError as error:
        first = error.errors()[0]
        flags = {name: flag for flag, name, _, _ in LIMITS}
        flag = flags[str(first["loc"][0])]
        raise InvalidRequest(f"{flag} is {first['input']!r}. {first['msg'].rstrip('.')}.") from error


def _list(options: argparse.Namespace, file: Path) -> None:
    from serve_app.access.key_file import read_key_file

    rows = [("ID", "CALLER", "TENANT", "SCOPES", "LANE", "EXPIRES")]
    for key in read_key_file(file).keys:
        expires = f"{key.expires:%Y-%m-%d %H:%M}" if key.expires else "never"
        rows.append((key.id, key.caller, key.tenant, ",".join(key.scopes), key.lane, expires))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _revoke(options: argparse.Namespace, file: Path) -> None:
    from serve_app.access.key_file import revoke_keys

    for key in revoke_keys(file, options.key):
        print(f"The key {key.id} of {key.caller} is revoked.")


ACTIONS: Final = {"add": _add, "list": _list, "revoke": _revoke}
