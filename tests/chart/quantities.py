"""Kubernetes quantities ("500m", "24Gi") as exact numbers."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_FORM = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(m|k|[MGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_FACTORS = {"": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(1000)}
_FACTORS |= {letter: Fraction(1000**power) for power, letter in enumerate("MGTPE", start=2)}
_FACTORS |= {f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", start=1)}


def quantity(written: str | int | float) -> Fraction:
    """The number that a quantity means; ValueError where it is none.

    Source: apimachinery's pkg/api/resource/quantity.go (n and u are left out: nobody writes them).
    """
    match = _FORM.fullmatch(str(written))
    if not match:
        raise ValueError(f"{written!r} is no quantity")
    sign, digits, suffix = match.groups(default="")
    factor = Fraction(10) ** int(suffix[1:]) if suffix[:1] in {"e", "E"} and suffix[1:] else _FACTORS[suffix]
    return Fraction(digits) * factor * (-1 if sign == "-" else 1)


def whole(written: str | int | float) -> int:
    """The same rounded up, as Quantity.Value() of apimachinery gives it: 500m CPUs are 1."""
    return math.ceil(quantity(written))
