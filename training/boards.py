"""Draws circuit boards: a grid of solder joints, at most one of them bad, and a number in white print.

Joints are small pictures that are drawn once at four times the size and pasted, so a board takes a few milliseconds.
Rows count from the top, columns from the left, both from 1.
"""

from functools import cache
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from training import vocabulary
from training.scenes import Color, Fact, Glyph, Page, Scene

SIDE = 392
DEFECTS = {
    "bridge": ("桥接", "solder bridge"),
    "insufficient": ("少锡", "insufficient solder"),
    "cold": ("虚焊", "cold joint"),
    "ball": ("锡珠", "solder ball"),
    "missing": ("漏焊", "missing solder"),
}
NO_DEFECT = ("没有缺陷", "no defect")
MASKS: tuple[Color, ...] = ((20, 95, 50), (15, 70, 120), (35, 35, 40), (120, 25, 30), (10, 110, 80))
_LARGE = 4  # joints are drawn this much larger and scaled down, for smooth edges
_VARIANTS = 6


def draw_board(rng: Random) -> Scene:
    base = rng.choice(MASKS)
    lift = rng.randrange(-8, 20)
    page = Page(rng, SIDE, SIDE, (base[0] + lift, base[1] + lift, base[2] + lift))
    silk: Color = (225 + rng.randrange(0, 30),) * 3
    rows, columns = rng.randrange(3, 7), rng.randrange(3, 8)
    number = f"{rng.choice(('PCB', 'SN', 'BD'))}-{vocabulary.letters(rng, 1)}{vocabulary.digits(rng, 4)}"
    pitch = min((SIDE - 86) / max(rows, columns - 0.5), rng.uniform(47, 60))
    left = 46 + rng.uniform(0, max(0.0, SIDE - 66 - pitch * columns))
    top = 68 + rng.uniform(0, max(0.0, SIDE - 84 - pitch * rows))
    page.write(rng.randrange(14, SIDE - 180), 8, number, rng.randrange(20, 24), silk)
    _traces(rng, page, (left, top, pitch), rows, columns)
    _ruler(page, (left, top, pitch), rows, columns, silk)
    defect = rng.choice(tuple(DEFECTS)) if rng.random() < 0.86 else None
    bad = (rng.randrange(rows), rng.randrange(columns - 1 if defect == "bridge" else columns))
    size = round(pitch * rng.uniform(0.62, 0.72))
    for row in range(rows):
        for column in range(columns):
            kind = defect if defect and (row, column) == bad else "good"
            x, y = left + pitch * (column + 0.5), top + pitch * (row + 0.5)
            _paste(page, rng, "good" if kind in ("bridge", "ball") else kind, size, x, y)
    if defect == "bridge":
        _bridge(rng, page, left + pitch * (bad[1] + 0.5), top + pitch * (bad[0] + 0.5), pitch, size)
    if defect == "ball":
        _ball(rng, page, left + pitch * (bad[1] + 0.5), top + pitch * (bad[0] + 0.5), size)
    if defect:
        x, y = left + pitch * (bad[1] + 0.5), top + pitch * (bad[0] + 0.5)
        reach = pitch if defect == "bridge" else 0.0  # a bridge includes the neighbour
        page.things.append(Glyph("joint", x + reach / 2, y, size + reach, size))
    facts = [*_facts(defect, bad[0] + 1, bad[1] + 1), Fact("board_number", number, number)]
    facts += [Fact("rows", str(rows), str(rows)), Fact("columns", str(columns), str(columns))]
    return Scene("boards", page.image, facts, page.glyphs, page.lines, page.things)


def _facts(defect: str | None, row: int, column: int) -> list[Fact]:
    if defect is None:
        return [
            Fact("defect", *NO_DEFECT),
            Fact("defect_kind", *NO_DEFECT),
            Fact("defect_exists", "合格", "pass"),
        ]
    zh, en = DEFECTS[defect]
    where_zh, where_en = f"第{row}行第{column}列", f"row {row}, column {column}"
    if defect == "bridge":
        where_zh += f"和第{column + 1}列"
        where_en = f"row {row}, columns {column} and {column + 1}"
    return [
        Fact("defect", f"{where_zh}，{zh}", f"{where_en}: {en}"),
        Fact("defect_kind", zh, en),
        Fact("defect_place", where_zh, where_en),
        Fact("defect_exists", "不合格", "fail"),
    ]


def _traces(rng: Random, page: Page, grid: tuple[float, float, float], rows: int, columns: int) -> None:
    left, top, pitch = grid
    pixel = page.image.getpixel((1, 1))
    assert isinstance(pixel, tuple)
    copper: Color = (int(pixel[0]) + 18, int(pixel[1]) + 26, int(pixel[2]) + 18)
    for _ in range(rng.randrange(4, 12)):
        x = left + pitch * (rng.randrange(columns) + 0.5)
        y = top + pitch * (rng.randrange(rows) + 0.5)
        bend = rng.uniform(10, 60) * rng.choice((-1, 1))
        page.draw.line((x, y, x + bend, y + abs(bend), x + bend, SIDE), copper, rng.choice((2, 3, 4)))


def _ruler(page: Page, grid: tuple[float, float, float], rows: int, columns: int, silk: Color) -> None:
    left, top, pitch = grid
    for column in range(columns):
        page.write(left + pitch * (column + 0.5) - 5, top - 24, str(column + 1), 17, silk)
    for row in range(rows):
        page.write(left - 20, top + pitch * (row + 0.5) - 10, str(row + 1), 17, silk)
    # the ruler is not text to be read out
    del page.lines[1:]


def _paste(page: Page, rng: Random, kind: str, size: int, x: float, y: float) -> None:
    joint = _joint(kind, size, rng.randrange(_VARIANTS))
    at = (round(x - size / 2 + rng.uniform(-1, 1)), round(y - size / 2 + rng.uniform(-1, 1)))
    page.image.paste(joint, at, joint)


@cache
def _joint(kind: str, size: int, variant: int) -> Image.Image:
    """A joint on a transparent background: the copper ring and the solder."""
    rng = Random(f"{kind} {size} {variant}")
    side = size * _LARGE
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    gold = rng.randrange(-15, 15)

    def disc(radius: float, fill: tuple[int, int, int, int], dx: float = 0.0, dy: float = 0.0) -> None:
        x, y, r = side * (0.5 + dx), side * (0.5 + dy), side * radius
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    disc(0.49, (200 + gold, 150 + gold, 70, 255))
    if kind == "missing":
        disc(0.2, (15, 12, 10, 255))
    elif kind == "insufficient":
        disc(0.26, (120, 120, 125, 255), 0.06, 0.04)
        disc(0.2, (185, 185, 190, 255), 0.05, 0.03)
        disc(0.09, (20, 18, 16, 255), -0.06, -0.04)
    else:
        dull = kind == "cold"
        level = rng.randrange(105, 125) if dull else rng.randrange(165, 190)
        disc(0.42, (level - 45, level - 45, level - 40, 255))
        disc(0.38, (level, level, level + 4, 255), -0.01, -0.02)
        if dull:
            for _ in range(40):  # a grainy surface
                shade = level + rng.randrange(-45, 35)
                disc(0.03, (shade, shade, shade, 255), rng.uniform(-0.24, 0.24), rng.uniform(-0.24, 0.24))
            box = (side * 0.22, side * 0.22, side * 0.78, side * 0.78)
            draw.arc(box, rng.randrange(360), rng.randrange(360, 620), (25, 22, 20, 255), side // 14)
        else:
            disc(0.22, (225, 226, 232, 255), -0.05, -0.07)
            disc(0.1, (255, 255, 255, 255), -0.1 + rng.uniform(-0.03, 0.03), -0.13)
    return image.filter(ImageFilter.GaussianBlur(2)).resize((size, size), Image.Resampling.BOX)


def _bridge(rng: Random, page: Page, x: float, y: float, pitch: float, size: int) -> None:
    """Solder that runs from a joint to its right neighbour."""
    half = size * rng.uniform(0.14, 0.22)
    level = rng.randrange(165, 195)
    page.draw.rounded_rectangle((x, y - half, x + pitch, y + half), half, fill=(level - 40, level - 40, level - 36))
    page.draw.rounded_rectangle(
        (x, y - half * 0.7, x + pitch, y + half * 0.5), half * 0.6, fill=(level, level, level + 4)
    )
    page.draw.line((x + 4, y - half * 0.3, x + pitch - 4, y - half * 0.3), (240, 240, 245), 2)


def _ball(rng: Random, page: Page, x: float, y: float, size: int) -> None:
    """A loose ball of solder that touches the joint's lower right or upper right edge."""
    radius = size * rng.uniform(0.13, 0.17)
    dx, dy = size * 0.44, size * 0.44 * rng.choice((-1, 1))
    box = (x + dx - radius, y + dy - radius, x + dx + radius, y + dy + radius)
    page.draw.ellipse(box, fill=(205, 205, 212), outline=(70, 70, 70))
    page.draw.ellipse((x + dx - radius * 0.5, y + dy - radius * 0.6, x + dx, y + dy - radius * 0.1), fill="white")
