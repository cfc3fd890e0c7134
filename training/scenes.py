"""A drawing: a picture, the facts in it, and the position of each character.

The facts have answers in both languages; `phrases.py` makes questions of them. The positions of the glyphs supervise
the vision tower during training, which makes it learn to read fast; together with the objects they also give the place
of a fact (`pointing.py`).
"""

from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw

from training import fonts

Language = Literal["zh", "en"]
Color = tuple[int, int, int]
Line = tuple[float, float, float]  # one row of an affine map


class Glyph(NamedTuple):
    """A character or a named object and its bounding box, in pixels of the picture."""

    character: str
    x: float  # centre
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Fact:
    """A fact: its kind, the answer in each language, and the values that a question contains."""

    kind: str
    zh: str
    en: str
    slots_zh: dict[str, str] = field(default_factory=dict)
    slots_en: dict[str, str] = field(default_factory=dict)


@dataclass
class Scene:
    job: str  # labels, boards or documents
    image: Image.Image
    facts: list[Fact]
    glyphs: list[Glyph]
    lines: list[str]  # all text, in reading order
    things: list[Glyph] = field(default_factory=list)  # objects that are not text: lights, a bad joint

    def move(self, across: Line, down: Line) -> None:
        """Applies an affine map to all recorded positions.

        A point's new x is `across[0] * x + across[1] * y + across[2]`, and its new y likewise by `down`.
        """
        self.glyphs = [_moved(glyph, across, down) for glyph in self.glyphs]
        self.things = [_moved(thing, across, down) for thing in self.things]


def _moved(glyph: Glyph, across: Line, down: Line) -> Glyph:
    name, x, y, width, height = glyph
    return Glyph(
        name,
        across[0] * x + across[1] * y + across[2],
        down[0] * x + down[1] * y + down[2],
        abs(across[0]) * width + abs(across[1]) * height,
        abs(down[0]) * width + abs(down[1]) * height,
    )


class Page:
    """A canvas that records the position of everything written on it; one font for Chinese, one for Latin."""

    def __init__(self, rng: Random, width: int, height: int, background: Color) -> None:
        self.image = Image.new("RGB", (width, height), background)
        self.draw = ImageDraw.Draw(self.image)
        self.glyphs: list[Glyph] = []
        self.things: list[Glyph] = []
        self.lines: list[str] = []
        self.han = fonts.choose(rng, True)
        self.latin = self.han if rng.random() < 0.4 else fonts.choose(rng, False)

    def face(self, text: str) -> str:
        return self.han if is_han(text) else self.latin

    def write(self, x: float, y: float, text: str, size: int, ink: Color, *, same_line: bool = False) -> float:
        """Writes one line of text between y and y + size; returns the x where it ends."""
        face = self.face(text)
        self.draw.text((x, y + size * 0.86), text, ink, fonts.font(face, size), anchor="ls")
        at = x
        for character in text:
            step = fonts.advance(face, size, character)
            if character != " ":
                top, bottom = fonts.reach(face, size, character)
                middle = y + size * 0.86 + (top + bottom) / 2
                self.glyphs.append(Glyph(character, at + step / 2, middle, step, bottom - top))
            at += step
        if same_line and self.lines:
            self.lines[-1] += " " + text
        else:
            self.lines.append(text)
        return at

    def width_of(self, text: str, size: int) -> float:
        face = self.face(text)
        return sum(fonts.advance(face, size, character) for character in text)

    def fit(self, text: str, size: int, width: float) -> int:
        """The largest size up to `size` at which the text is no wider than `width`."""
        return min(size, max(12, int(size * width / max(1.0, self.width_of(text, size)))))


def is_han(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def dark(rng: Random) -> Color:
    """A dark colour for ink."""
    level = rng.randrange(0, 60)
    return (level, level + rng.randrange(0, 20), level + rng.randrange(0, 40))


def light(rng: Random) -> Color:
    """A light colour for paper."""
    level = rng.randrange(205, 256)
    return (level, level - rng.randrange(0, 10), level - rng.randrange(0, 30))
