"""User name and password of a Redis server, from settings; the password from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypedDict

from serve_app.errors import InvalidRequest


class RedisSettings(Protocol):
    """The settings of a section that uses Redis."""

    @property
    def redis_user(self) -> str: ...

    @property
    def redis_password_file(self) -> str: ...


class RedisLogin(TypedDict):
    """Arguments of redis-py's clients and pools; None: not sent."""

    username: str | None
    password: str | None


def redis_login(settings: RedisSettings, section: str) -> RedisLogin:
    """The login of a section (`limits`, `cache`). Raises InvalidRequest if the password can't be read."""
    password, setting = None, f"{section}.redis_password_file"
    if settings.redis_password_file:
        try:
            password = Path(settings.redis_password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"The file {setting} can't be read: {error}.", setting) from error
    return {"username": settings.redis_user or None, "password": password}
