"""What the model put between its box marks: text, and the picture regions that are written in it.

GLM models write a region as left, top, right, bottom in thousandths of the picture's sides. Brackets
vary: `[[x1,y1,x2,y2]]`, `(x1, y1, x2, y2)`, `<x1 y1 x2 y2>`, several in a row, inside JSON.
"""

from __future__ import annotations

import re

from serve_app.contracts import Box, Boxed, Picture

# Possessive quantifiers: a model may be talked into any text, and none may take long to search.
_NUMBER = r"(-?\d++(?:\.\d++)?)"
_BETWEEN = r"(?:\s*+[,，;；]\s*+|\s++)"
_REGION = re.compile(rf"[\[(<{{（【]\s*+{_BETWEEN.join([_NUMBER] * 4)}\s*+[\])>}}）】]")


def parse_box(text: str, pictures: tuple[Picture, ...]) -> Boxed:
    """A span's text and its regions, in pixels too if it is certain which picture is meant: the only one."""
    text = text.strip()
    regions = [_thousandths(match) for match in _REGION.findall(text)]
    if len(pictures) != 1:
        return Boxed(text, tuple(Box(region, None, None) for region in regions))
    size = pictures[0].original_size
    return Boxed(text, tuple(Box(region, _pixels(region, size), 0) for region in regions))


def _thousandths(numbers: tuple[str, ...]) -> tuple[int, int, int, int]:
    """Rounded, within 0 to 1000, left before right and top before bottom."""
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
