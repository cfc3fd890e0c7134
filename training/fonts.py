"""The open fonts that the drawings are written with, found once and cached by size.

README.md names the Debian packages. A folder given by `look_in` is searched before the system's, so
that copies can travel to a machine that has none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

HAN = (
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJK-Bold.ttc",
    "LXGWWenKai-Bold.ttf",
    "gbsn00lp.ttf",
)
LATIN = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSans-Bold.ttf",
    "LiberationMono-Bold.ttf",
    "LiberationSerif-Regular.ttf",
    "Roboto-Medium.ttf",
)
_roots: list[Path] = [Path("/usr/share/fonts")]
_standing_in = False


def look_in(folder: Path) -> None:
    _roots.insert(0, folder)
    _forget()


@contextmanager
def stand_in() -> Iterator[None]:
    """Within it everything is written in Pillow's own font, which has no Chinese: for tests without the packages."""
    global _standing_in
    _standing_in = True
    _forget()
    try:
        yield
    finally:
        _standing_in = False
        _forget()


def _forget() -> None:
    for kept in (_path, font, advance, reach):
        kept.cache_clear()


@cache
def _path(name: str) -> Path:
    for root in _roots:
        for path in root.rglob(name):
            return path
    folders = ", ".join(str(root) for root in _roots)
    raise FileNotFoundError(f"the font {name} is not in {folders}; training/README.md names its package")


@cache
def font(name: str, size: int) -> Font:
    if _standing_in:
        own = ImageFont.load_default(size)
        assert isinstance(own, Font)
        return own
    return ImageFont.truetype(str(_path(name)), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def advance(name: str, size: int, character: str) -> float:
    """Width that one character takes; kept, since asking the font for every character is slow."""
    return font(name, size).getlength(character)


@cache
def reach(name: str, size: int, character: str) -> tuple[float, float]:
    """How far one character's ink reaches from the base line to top and bottom; downwards is positive."""
    box = font(name, size).getbbox(character, anchor="ls")
    return box[1], box[3]


def choose(rng: Random, text_is_han: bool) -> str:
    """A font's name; Chinese is drawn with the first fonts more often, as they are the plainest."""
    if not text_is_han:
        return rng.choice(LATIN)
    return rng.choices(HAN, (4, 3, 4, 2, 2, 1))[0]
