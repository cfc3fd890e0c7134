"""Kubernetes quantities ("500m", "24Gi") as exact numbers, and in the canonical form of Go's serializer."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_FORM = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(n|u|m|k|[MGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_FACTORS = {
    "": Fraction(1),
    "m": Fraction(1, 10**3),
    "u": Fraction(1, 10**6),
    "n": Fraction(1, 10**9),
    "k": Fraction(1000),
}
_DECIMAL_UNITS = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY_UNITS = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_FACTORS |= {letter: Fraction(1000**power) for power, letter in enumerate("MGTPE", start=2)}
_FACTORS |= {f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", start=1)}


def quantity(written: str | int | float) -> Fraction:
    """The number that a quantity means; ValueError where it is none.

    Source: apimachinery's pkg/api/resource/quantity.go.
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


def canonical(written: str | int | float) -> str:
    """The form in which Go's Quantity.CanonicalizeBytes (same source) writes a quantity, without a sign.

    Binary units stay binary where the amount is an integer of at least 1024; an exponent stays an exponent.
    """
    number = quantity(written)
    suffix = str(written).lstrip("+0123456789.") if isinstance(written, str) else ""
    if number == 0:
        return "0"
    if suffix.endswith("i") and number >= 1024 and number.denominator == 1:
        whole_number, power = number.numerator, 0
        while whole_number % 1024 == 0:
            whole_number, power = whole_number // 1024, power + 1
        return f"{whole_number}{_BINARY_UNITS[power]}"
    exponent = next(each for each in range(18, -10, -3) if (number / Fraction(1000) ** (each // 3)).denominator == 1)
    unit = f"e{exponent}" if suffix[:1] in {"e", "E"} and suffix[1:] and exponent else _DECIMAL_UNITS[exponent // 3 + 3]
    return f"{number / Fraction(1000) ** (exponent // 3)}{unit}"
