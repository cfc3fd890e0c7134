"""Draws business documents: a title, fields, a table with correct sums, and a stamp."""

from math import cos, radians, sin
from random import Random

from PIL import Image, ImageDraw

from training import fonts, vocabulary
from training.scenes import Color, Fact, Glyph, Page, Scene, dark, light

WIDTH, HEIGHT = 448, 560
TITLES = ("送货单", "入库单", "采购单", "出库单", "收据", "对账单", "报价单", "领料单")
TITLES_EN = ("INVOICE", "DELIVERY NOTE", "PURCHASE ORDER", "RECEIPT", "QUOTATION", "PACKING LIST")
PARTIES = ("客户", "供应商", "购货单位", "收货单位")
PARTIES_EN = ("BUYER", "CUSTOMER", "SUPPLIER")
STAMPS = (
    "财务专用章", "合同专用章", "发票专用章", "收货专用章", "质检专用章", "仓库专用章", "业务专用章", "已付款",
    "已收货", "检验合格",
    "作废", "急件", "副本", "机密", "已审核", "现金付讫", "验收合格", "已入库",
)  # fmt: skip
STAMPS_EN = ("PAID", "APPROVED", "RECEIVED", "COPY", "URGENT", "CHECKED", "VOID", "CONFIRMED")
_COLUMNS = (0.0, 0.34, 0.51, 0.72)  # where name, quantity, price and amount begin, as parts of the table's width


def draw_document(rng: Random) -> Scene:
    chinese = rng.random() < 0.72
    page = Page(rng, WIDTH, HEIGHT, light(rng))
    ink = dark(rng)
    title = rng.choice(TITLES if chinese else TITLES_EN)
    size = rng.randrange(27, 33)
    page.write((WIDTH - page.width_of(title, size)) / 2, rng.randrange(14, 26), title, size, ink)
    facts = [Fact("title", title, title)]
    left = rng.randrange(20, 38)
    y = _fields(rng, page, ink, facts, chinese, left, 66 + rng.randrange(0, 10))
    y = _table(rng, page, ink, facts, chinese, left, y + rng.randrange(4, 14))
    clerk = vocabulary.person(rng) if chinese else vocabulary.person_en(rng)
    if rng.random() < 0.6 and y < HEIGHT - 60:
        role = rng.choice(("经办人", "制单人")) if chinese else "CLERK"
        x = page.write(left, y, role + ":", 19, ink)
        page.write(x + 8, y, clerk, 19, ink, same_line=True)
        facts.append(Fact("clerk", clerk, clerk))
    if rng.random() < 0.85:
        facts.append(_stamp(rng, page, chinese, y))
    return Scene("documents", page.image, facts, page.glyphs, page.lines)


def _fields(rng: Random, page: Page, ink: Color, facts: list[Fact], chinese: bool, left: int, y: int) -> int:
    number = vocabulary.letters(rng, 2) + vocabulary.digits(rng, rng.choice((6, 7, 8)))
    when = vocabulary.date(rng)
    party = vocabulary.company(rng) if chinese else vocabulary.company_en(rng)
    contact = vocabulary.person(rng) if chinese else vocabulary.person_en(rng)
    fields = [
        (rng.choice(("编号", "单号")) if chinese else "NO.", number, "number"),
        ("日期" if chinese else "DATE", when, "date"),
        (rng.choice(PARTIES) if chinese else rng.choice(PARTIES_EN), party, "party"),
    ]
    if rng.random() < 0.5:
        fields.append(("联系人" if chinese else "CONTACT", contact, "contact"))
    if rng.random() < 0.4:
        phone = vocabulary.phone(rng)
        fields.append(("电话" if chinese else "TEL", phone, "contact_phone"))
    if rng.random() < 0.3:
        rng.shuffle(fields)
    size = rng.randrange(18, 22)
    for title, value, kind in fields:
        x = page.write(left, y, title + ":", size, ink) + rng.randrange(5, 14)
        page.write(x, y, value, page.fit(value, size, WIDTH - x - 12), ink, same_line=True)
        facts.append(Fact(kind, value, value))
        y += size + rng.randrange(8, 16)
    return y


def _table(rng: Random, page: Page, ink: Color, facts: list[Fact], chinese: bool, left: int, y: int) -> int:
    width = WIDTH - 2 * left
    size = rng.randrange(17, 20)
    pitch = size + rng.randrange(11, 18)
    rows = rng.randrange(2, 5)
    goods = rng.sample(vocabulary.GOODS if chinese else vocabulary.GOODS_EN, rows)
    names = ("名称", "数量", "单价", "金额") if chinese else ("ITEM", "QTY", "PRICE", "AMOUNT")
    starts = [left + 6 + width * part for part in _COLUMNS]
    ruled = rng.random() < 0.7
    top = y
    _row(page, ink, starts, names, y, size)
    total = 0
    for row, name in enumerate(goods, start=1):
        y += pitch
        quantity, cents = rng.randrange(1, 100), rng.randrange(1, 2000) * 5
        amount = quantity * cents
        total += amount
        price_text, amount_text = f"{cents / 100:.2f}", f"{amount / 100:.2f}"
        _row(page, ink, starts, (name, str(quantity), price_text, amount_text), y, size)
        goods_slot = {"goods": name, "row": str(row)}
        facts += [
            Fact("row_quantity", str(quantity), str(quantity), goods_slot, goods_slot),
            Fact("row_price", price_text, price_text, goods_slot, goods_slot),
            Fact("row_amount", amount_text, amount_text, goods_slot, goods_slot),
            Fact("row_name", name, name, goods_slot, goods_slot),
        ]
    y += pitch
    bottom = y - 4
    for line in range(rows + 2):
        if ruled or line in (0, 1, rows + 1):
            at = top - 4 + line * pitch
            page.draw.line((left, at, left + width, at), ink, 1)
    if ruled:
        for x in [start - 6 for start in starts] + [left + width]:
            page.draw.line((x, top - 4, x, bottom), ink, 1)
    text = f"{total / 100:.2f}"
    title = rng.choice(("合计", "总计", "合计金额")) if chinese else rng.choice(("TOTAL", "GRAND TOTAL"))
    x = page.write(left + 6, y + 2, title + ":", size + 2, ink)
    x += rng.randrange(6, 60)
    if chinese and rng.random() < 0.4:
        page.write(x, y + 2, "¥" + text, size + 2, ink, same_line=True)
    else:
        page.write(x, y + 2, text, size + 2, ink, same_line=True)
    facts += [Fact("total", text, text), Fact("row_count", str(rows), str(rows))]
    return y + size + rng.randrange(14, 24)


def _row(page: Page, ink: Color, starts: list[float], cells: tuple[str, ...], y: float, size: int) -> None:
    for column, (x, cell) in enumerate(zip(starts, cells, strict=True)):
        page.write(x, y, cell, size, ink, same_line=column > 0)


def _stamp(rng: Random, page: Page, chinese: bool, y: int) -> Fact:
    """A rotated frame with a word in red or blue, where the page is mostly empty."""
    text = rng.choice(STAMPS if chinese else STAMPS_EN)
    size = rng.randrange(23, 29)
    face = page.face(text)
    wide = round(page.width_of(text, size)) + 28
    high = size + 24
    red = rng.random() < 0.8
    ink = (rng.randrange(190, 230), 25, 30) if red else (30, 50, rng.randrange(150, 210))
    box = max(wide, high) + 40
    layer = Image.new("RGBA", (box, box), (*ink, 0))
    draw = ImageDraw.Draw(layer)
    middle = box / 2
    frame = (middle - wide / 2, middle - high / 2, middle + wide / 2, middle + high / 2)
    alpha = rng.randrange(190, 240)
    shape = rng.choice(("round", "oval", "box"))
    if shape == "box":
        draw.rectangle(frame, outline=(*ink, alpha), width=3)
    elif shape == "oval":
        draw.ellipse((frame[0] - 8, frame[1] - 6, frame[2] + 8, frame[3] + 6), outline=(*ink, alpha), width=3)
    else:
        draw.ellipse(
            (frame[0] - 2, middle - wide / 2 - 2, frame[2] + 2, middle + wide / 2 + 2), outline=(*ink, alpha), width=3
        )
    start = middle - page.width_of(text, size) / 2
    draw.text((start, middle + size * 0.36), text, (*ink, alpha), fonts.font(face, size), anchor="ls")
    angle = rng.uniform(-22, 22)
    turned = layer.rotate(angle, Image.Resampling.BILINEAR)
    x = rng.randrange(WIDTH // 2 - 20, max(WIDTH // 2 - 19, WIDTH - box + 10))
    top = min(HEIGHT - box + 12, y - rng.randrange(0, 30))
    page.image.paste(turned, (x, top), turned)
    _record_turned(page, text, size, (x + middle, top + middle), angle)
    return Fact("stamp", text, text)


def _record_turned(page: Page, text: str, size: int, centre: tuple[float, float], angle: float) -> None:
    face = page.face(text)
    at = -page.width_of(text, size) / 2
    turn = radians(angle)
    across, down = cos(turn), abs(sin(turn))
    for character in text:
        step = fonts.advance(face, size, character)
        dx = at + step / 2
        x, y = centre[0] + dx * across, centre[1] - dx * sin(turn)
        page.glyphs.append(Glyph(character, x, y, step * across + size * down, step * down + size * across))
        at += step
    page.lines.append(text)
