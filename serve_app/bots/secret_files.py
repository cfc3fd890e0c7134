"""Reads the secrets of bots from their files."""

from __future__ import annotations

from pathlib import Path

from serve_app.errors import InvalidRequest


def read_secret(path: str, setting: str) -> str:
    """The text of a secret's file. Raises InvalidRequest, which names the setting and not the secret."""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(
            f"The file of {setting} can't be read: {type(error).__name__} for {path!r}.", setting
        ) from error
    if not secret:
        raise InvalidRequest(f"The file of {setting} ({path!r}) is empty.", setting)
    return secret
