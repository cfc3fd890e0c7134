"""The open fonts of the drawings, found once and cached by size.

README.md names the Debian packages. A folder given to `search_first` is searched before the system's, for machines
without the packages.
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
_builtin_only = False


def search_first(folder: Path) -> None:
    _roots.insert(0, folder)
    _forget()


@contextmanager
def builtin_font_only() -> Iterator[None]:
    """A context in which Pillow's own font, which has no Chinese, replaces all others; for tests."""
    global _builtin_only
    _builtin_only = True
    _forget()
    try:
        yield
    finally:
        _builtin_only = False
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
    if _builtin_only:
        own = ImageFont.load_default(size)
        assert isinstance(own, Font)
        return own
    return ImageFont.truetype(str(_path(name)), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def advance(name: str, size: int, character: str) -> float:
    """The width of one character; cached, because asking the font is slow."""
    return font(name, size).getlength(character)


@cache
def reach(name: str, size: int, character: str) -> tuple[float, float]:
    """The top and bottom of one character's ink, relative to the baseline; downwards is positive."""
    box = font(name, size).getbbox(character, anchor="ls")
    return box[1], box[3]


def choose(rng: Random, text_is_han: bool) -> str:
    """A font's name; Chinese uses the first, plainest fonts more often."""
    if not text_is_han:
        return rng.choice(LATIN)
    return rng.choices(HAN, (4, 3, 4, 2, 2, 1))[0]
