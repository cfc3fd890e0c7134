"""Limits on the structure of a JSON body, checked before it is parsed and before it is validated.

Pydantic reports every wrong item of a list: a body of 4 MB with two million of them took 3 GiB and 14 s. No normal
request has lists of thousands of entries; one string may be as long as the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from serve_app.errors import InvalidRequest
from serve_app.ingress.validation import truncate

MAX_BRACKETS: Final = 500_000  # of "{" and "[", those in texts included: 64 bytes of memory each
MAX_COMMAS: Final = 1_000_000  # 8 bytes of memory each
MAX_ENTRIES: Final = 10_000  # of one list or object
MAX_VALUES: Final = 100_000  # of the whole body


def check_bytes(body: bytes) -> None:
    """Raises InvalidRequest for a body that would take far more memory than its size when it is parsed."""
    brackets = body.count(b"{") + body.count(b"[")
    commas = body.count(b",")
    if brackets > MAX_BRACKETS or commas > MAX_COMMAS:
        raise InvalidRequest(
            f"The body has {brackets} brackets and {commas} commas; the limits are {MAX_BRACKETS} and {MAX_COMMAS}."
        )


def check_values(body: dict[str, Any]) -> None:
    """Raises InvalidRequest for too many values, and names the field where one list has them."""
    values = 0
    waiting: list[tuple[str, Any]] = list(_children("", body))
    while waiting:
        path, value = waiting.pop()
        values += 1
        if values > MAX_VALUES:
            raise InvalidRequest(f"The body has more than {MAX_VALUES} values, the limit.")
        if isinstance(value, list | dict):
            if len(value) > MAX_ENTRIES:
                name = truncate(path)
                raise InvalidRequest(f"'{name}' has {len(value)} entries; the limit is {MAX_ENTRIES}.", name)
            waiting += _children(path, value)


def _children(path: str, value: dict[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"{path}.{key}" if path else key, child
    else:
        for index, child in enumerate(value):
            yield f"{path}[{index}]", child
