"""Limits on the structure of a JSON body, checked before it is parsed and before it is validated.

Pydantic reports every wrong item of a list: a body of 4 MB with two million of them took 3 GiB and 14 s. No normal
request has lists of thousands of entries; one string may be as long as the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from serve_app.errors import InvalidRequest
from serve_app.ingress.validation import truncate

MAX_BRACKETS: Final = 500_000  # of "{" and "[", those in texts included: 64 bytes of memory each
MAX_COMMAS: Final = 1_000_000  # 8 bytes of memory each
MAX_ENTRIES: Final = 10_000  # of one list or object
MAX_OBJECTS: Final = 2048  # of one list of objects or lists; OpenAI's limit of messages
MAX_VALUES: Final = 50_000  # of the whole body
MANY_VALUES: Final = 2000  # take 10 ms to validate


def check_bytes(body: bytes) -> int:
    """The number of brackets and commas. Raises InvalidRequest if parsing would take far more memory than the body."""
    characters = np.frombuffer(body, np.uint8)  # counts four times as fast as `bytes.count`
    brackets = np.count_nonzero(characters == ord("{")) + np.count_nonzero(characters == ord("["))
    commas = np.count_nonzero(characters == ord(","))
    if brackets > MAX_BRACKETS or commas > MAX_COMMAS:
        raise InvalidRequest(
            f"The body has {brackets} brackets and {commas} commas; the limits are {MAX_BRACKETS} and {MAX_COMMAS}."
        )
    return int(brackets + commas)


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
            limit = MAX_OBJECTS if isinstance(value, list) and _is_of_objects(value) else MAX_ENTRIES
            if len(value) > limit:
                name = truncate(path)
                raise InvalidRequest(f"'{name}' has {len(value)} entries; the limit is {limit}.", name)
            waiting += _children(path, value)


def has_many_values(body: dict[str, Any]) -> bool:
    """Whether the body takes so long to validate that the event loop must not wait for it."""
    values = 0
    waiting: list[Any] = [body]
    while waiting and values <= MANY_VALUES:
        value = waiting.pop()
        if isinstance(value, list | dict):
            values += len(value)
            waiting += value if isinstance(value, list) else value.values()
    return values > MANY_VALUES


def _is_of_objects(items: list[Any]) -> bool:
    return any(isinstance(item, list | dict) for item in items[: MAX_OBJECTS + 1])


def _children(path: str, value: dict[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"{path}.{key}" if path else key, child
    else:
        for index, child in enumerate(value):
            yield f"{path}[{index}]", child
