"""The language of a request (`Accept-Language`) and of a terminal (`LC_ALL`, `LC_MESSAGES`, `LANG`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal

Language = Literal["en", "zh"]
MAX_HEADER: Final = 1000  # characters that are read; browsers send fewer than 100


def language_of_header(accept_language: str) -> Language:
    """The language of this service that a request prefers (RFC 9110, section 12.5.4); English without preference.

    `zh-CN,zh;q=0.9,en;q=0.8` is Chinese. Of equal weights the first one counts.
    """
    best: Language = "en"
    best_weight = 0.0
    for item in accept_language[:MAX_HEADER].split(","):
        name, _, parameters = item.strip().lower().partition(";")
        primary = name.strip().partition("-")[0]
        weight = _weight(parameters)
        if primary in ("zh", "en") and weight > best_weight:
            best, best_weight = ("zh" if primary == "zh" else "en"), weight
    return best


def language_of_terminal(environment: Mapping[str, str] | None = None) -> Language:
    """The language of messages by POSIX's variables; the first that is set counts."""
    environment = os.environ if environment is None else environment
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next((value for name in names if (value := environment.get(name))), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
