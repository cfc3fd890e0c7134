"""Parser of boxes: the text between box tokens, and the picture regions written in it.

GLM models write a region as left, top, right, bottom in thousandths of the picture's sides. Brackets
vary: `[[x1,y1,x2,y2]]`, `(x1, y1, x2, y2)`, `<x1 y1 x2 y2>`, several in a row, inside JSON.
"""

from __future__ import annotations

import re

from serve_app.contracts import Box, Boxed, Picture

# Possessive quantifiers: searching takes linear time for any text.
_NUMBER = r"(-?\d++(?:\.\d++)?)"
_BETWEEN = r"(?:\s*+[,，;；]\s*+|\s++)"
_REGION = re.compile(rf"[\[(<{{（【]\s*+{_BETWEEN.join([_NUMBER] * 4)}\s*+[\])>}}）】]")


def parse_box(text: str, pictures: tuple[Picture, ...]) -> Boxed:
    """Text and regions of a box; with pixel coordinates only if the prompt has exactly one picture."""
    text = text.strip()
    regions = [_thousandths(match) for match in _REGION.findall(text)]
    if len(pictures) != 1:
        return Boxed(text, tuple(Box(region, None, None) for region in regions))
    size = pictures[0].original_size
    return Boxed(text, tuple(Box(region, _pixels(region, size), 0) for region in regions))


def _thousandths(numbers: tuple[str, ...]) -> tuple[int, int, int, int]:
    """Coordinates rounded, clamped to 0 to 1000 and ordered: left, top, right, bottom."""
    x1, y1, x2, y2 = (round(min(max(float(number), 0.0), 1000.0)) for number in numbers)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _pixels(region: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = size
    left, top, right, bottom = region
    return (
        round(left * width / 1000),
        round(top * height / 1000),
        round(right * width / 1000),
        round(bottom * height / 1000),
    )
