"""Draws shipping labels: carrier, bar code, tracking number, recipient, phone, address, sender."""

from random import Random

from PIL import Image

from training import vocabulary
from training.scenes import Color, Fact, Page, Scene, dark, light

WIDTH, HEIGHT = 448, 336


def draw_label(rng: Random) -> Scene:
    chinese = rng.random() < 0.72
    page = Page(rng, WIDTH, HEIGHT, light(rng))
    ink = dark(rng)
    facts: list[Fact] = []
    left = rng.randrange(14, 30)
    y = _head(rng, page, ink, facts, chinese, left)
    blocks = [_number, _recipient]
    if rng.random() < 0.35:
        blocks.reverse()
    for block in blocks:
        y = block(rng, page, ink, facts, chinese, left, y + rng.randrange(2, 8))
        if rng.random() < 0.6:
            page.draw.line((8, y + 2, WIDTH - 8, y + 2), ink, rng.choice((1, 1, 2)))
            y += 4
    y = _sender(rng, page, ink, facts, chinese, left, y + rng.randrange(2, 7))
    _foot(rng, page, ink, facts, chinese, left, y + rng.randrange(2, 6))
    if rng.random() < 0.7:
        page.draw.rectangle((4, 4, WIDTH - 5, HEIGHT - 5), outline=ink, width=rng.choice((1, 2)))
    return Scene("labels", page.image, facts, page.glyphs, page.lines)


def _head(rng: Random, page: Page, ink: Color, facts: list[Fact], chinese: bool, left: int) -> int:
    name = rng.choice(vocabulary.CARRIERS if chinese else vocabulary.CARRIERS_EN)
    size = rng.randrange(25, 32)
    facts.append(Fact("carrier", name, name))
    if rng.random() < 0.4:
        band = tuple(rng.randrange(10, 120) for _ in range(3))
        page.draw.rectangle((4, 4, WIDTH - 5, 14 + size + 4), fill=(band[0], band[1], band[2]))
        page.write(left, 9, name, size, (255, 255, 255))
    else:
        page.write(left, 9, name, size, ink)
    return 14 + size + 6


def _number(rng: Random, page: Page, ink: Color, facts: list[Fact], chinese: bool, left: int, y: int) -> int:
    number = vocabulary.tracking(rng)
    facts.append(Fact("tracking", number, number))
    height = rng.randrange(24, 38)
    bars = Image.frombytes("L", (180, 1), bytes(rng.choices((0, 255), (1, 1), k=180)))
    page.image.paste(ink, (left, y), bars.resize((360, height), Image.Resampling.NEAREST))
    y += height + 3
    size = rng.randrange(23, 28)
    title = rng.choice(("运单号", "单号", "快递单号")) if chinese else rng.choice(("NO.", "TRACKING"))
    if rng.random() < 0.7:
        x = page.write(left, y + 2, title, size - 3, ink)
        page.write(x + 10, y, number, size, ink, same_line=True)
    else:
        page.write(left + rng.randrange(0, 90), y, number, size, ink)
    return y + size + 5


def _recipient(rng: Random, page: Page, ink: Color, facts: list[Fact], chinese: bool, left: int, y: int) -> int:
    name = vocabulary.person(rng) if chinese else vocabulary.person_en(rng)
    phone = vocabulary.phone(rng)
    first, second = vocabulary.address(rng) if chinese else vocabulary.address_en(rng)
    full_address = first + second if chinese else f"{first}, {second}"
    facts += [Fact("recipient", name, name), Fact("phone", phone, phone), Fact("address", full_address, full_address)]
    size = rng.randrange(19, 25)
    title = rng.choice(("收件人", "收货人", "收")) if chinese else rng.choice(("TO", "RECIPIENT"))
    x = page.write(left, y, title, size, ink) + rng.randrange(8, 18)
    x = page.write(x, y, name, size, ink, same_line=True) + rng.randrange(12, 24)
    if x + page.width_of(phone, size) > WIDTH - 12 or rng.random() < 0.25:
        y += size + 5
        x = page.write(left, y, rng.choice(("电话", "手机")) if chinese else "TEL", size, ink) + 10
        page.write(x, y, phone, size, ink, same_line=True)
    else:
        page.write(x, y, phone, size, ink, same_line=True)
    y += size + 5
    if rng.random() < 0.5:
        x = page.write(left, y, "地址" if chinese else "ADDR", size, ink) + 10
        same = True
    else:
        x, same = left, False
    first_line = first if chinese else first + ","
    page.write(x, y, first_line, size, ink, same_line=same)
    y += size + 4
    page.write(x, y, second, size, ink)
    return y + size + 4


def _sender(rng: Random, page: Page, ink: Color, facts: list[Fact], chinese: bool, left: int, y: int) -> int:
    size = rng.randrange(18, 21)
    if rng.random() < 0.3 or y + size > HEIGHT - 12:
        return y
    name = vocabulary.person(rng) if chinese else vocabulary.person_en(rng)
    facts.append(Fact("sender", name, name))
    x = page.write(
        left, y, rng.choice(("寄件人", "发货人", "寄")) if chinese else rng.choice(("FROM", "SENDER")), size, ink
    )
    x = page.write(x + 10, y, name, size, ink, same_line=True) + 16
    if rng.random() < 0.5:
        phone = vocabulary.phone(rng)
        if x + page.width_of(phone, size) < WIDTH - 10:
            page.write(x, y, phone, size, ink, same_line=True)
            facts.append(Fact("sender_phone", phone, phone))
    return y + size + 3


def _foot(rng: Random, page: Page, ink: Color, facts: list[Fact], chinese: bool, left: int, y: int) -> None:
    size = rng.randrange(17, 20)
    if y + size > HEIGHT - 10:
        return
    goods = rng.choice(vocabulary.GOODS if chinese else vocabulary.GOODS_EN)
    weight = vocabulary.weight(rng)
    x: float = left
    same = False
    if rng.random() < 0.7:
        x = page.write(x, y, goods, size, ink) + 18
        facts.append(Fact("goods", goods, goods))
        same = True
    if rng.random() < 0.7:
        x = page.write(x, y, weight, size, ink, same_line=same) + 18
        facts.append(Fact("weight", weight, weight))
        same = True
    when = vocabulary.date(rng)
    if x + page.width_of(when, size) < WIDTH - 10 and rng.random() < 0.7:
        page.write(x, y, when, size, ink, same_line=same)
        facts.append(Fact("label_date", when, when))
