"""The place of a fact in its picture, questions for it, and the box that answers them.

A box has GLM-4.5V's format: left, top, right, bottom in thousandths of the picture's sides, between box tokens. It
encloses the ink of the value's characters, a light, or a bad joint.
"""

import re
from random import Random

from training import phrases
from training.boards import NO_DEFECT
from training.scenes import Fact, Glyph, Language, Scene

Region = tuple[int, int, int, int]  # left, top, right, bottom in thousandths of the sides
BEGIN, END = "<|begin_of_box|>", "<|end_of_box|>"
# Steps of box coordinates in thousandths, about two pixels: finer digits would be noise for training.
STEP = 5
# Names of the subject, in Chinese and in English.
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tracking": (("运单号", "快递单号", "单号"), ("the tracking number", "the waybill number", "the parcel number")),
    "carrier": (("快递公司名称", "快递公司"), ("the carrier's name", "the carrier")),
    "recipient": (("收件人姓名", "收件人", "收货人"), ("the recipient's name", "the recipient")),
    "phone": (("收件人电话", "收件人的手机号", "电话号码"), ("the recipient's phone number", "the phone number")),
    "address": (("收件地址", "收货地址", "地址"), ("the address", "the delivery address", "the recipient's address")),
    "sender": (("寄件人姓名", "寄件人", "发货人"), ("the sender's name", "the sender")),
    "sender_phone": (("寄件人电话", "寄件人的手机号"), ("the sender's phone number",)),
    "goods": (("物品名称", "物品"), ("the goods", "the name of the goods")),
    "weight": (("重量", "包裹重量"), ("the weight", "the parcel's weight")),
    "label_date": (("日期", "寄件日期"), ("the date", "the shipping date")),
    "device": (("设备名称", "产品名称"), ("the device's name", "the product's name")),
    "model": (("型号", "产品型号"), ("the model number", "the model")),
    "light": (("{color}灯", "{color}色指示灯", "{color}色的灯"), ("the {color} light", "the {color} indicator")),
    "defect": (("坏焊点", "有缺陷的焊点", "焊接缺陷"), ("the bad joint", "the defect", "the bad solder joint")),
    "board_number": (("板号", "电路板的编号"), ("the board number", "the board's number")),
    "title": (("标题", "单据名称"), ("the title", "the document's title")),
    "number": (("单据编号", "编号"), ("the document number", "the number")),
    "date": (("日期", "单据日期"), ("the date", "the document's date")),
    "party": (("公司名称", "单位名称"), ("the company's name", "the company")),
    "contact": (("联系人",), ("the contact's name", "the contact")),
    "contact_phone": (("联系电话", "电话号码"), ("the phone number", "the telephone number")),
    "clerk": (("经办人", "经办人姓名"), ("the clerk's name", "the clerk")),
    "row_name": (("第{row}行的货物名称",), ("the item in row {row}",)),
    "row_price": (("{goods}的单价",), ("the price of {goods}", "the unit price of {goods}")),
    "row_amount": (("{goods}的金额",), ("the amount for {goods}",)),
    "total": (("合计金额", "合计", "总金额"), ("the total", "the total amount")),
    "stamp": (("印章", "印章文字", "图章"), ("the stamp", "the words on the stamp")),
}  # fmt: skip
NAMES["light_absent"] = NAMES["light"]
_WHERE = (
    ("{what}在哪里?", "{what}在哪?", "{what}在什么位置?"),
    ("Where is {what}?", "Where's {what}?"),
)
_POINT = (
    (
        "{what}在图中的什么位置?",
        "{what}在图片的哪个位置?",
        "请框出{what}。",
        "用方框标出{what}。",
        "请指出{what}在图中的位置。",
        "在图中定位{what}。",
    ),
    (
        "Where in the picture is {what}?",
        "Point to {what}.",
        "Draw a box around {what}.",
        "Locate {what} in the picture.",
        "Give the box of {what}.",
        "Mark {what} in the picture.",
    ),
)
_SAY_AND_POINT = (
    ("{what}是什么,在图中的什么位置?", "读出{what},并框出来。"),
    ("Read {what} and draw a box around it.", "What is {what}, and where in the picture is it?"),
)
# "Where is the address?" and "Where is the bad joint?" are answered by text.
_IN_WORDS = ("address", "defect")
_FOUR_NUMBERS = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")


def pointable(scene: Scene) -> list[Fact]:
    """The facts with a known, unique place, and those that are known to be missing."""
    asked = [fact for fact in scene.facts if fact.kind in NAMES]
    return [fact for fact in asked if _is_missing(fact) or region(scene, fact)]


def region(scene: Scene, fact: Fact) -> Region | None:
    """The place of the fact; None if it has none, or if its text is in several places."""
    glyphs = _things(scene, fact) or _written(scene, fact.zh)
    if not glyphs:
        return None
    width, height = scene.image.size
    left, top = min(g.x - g.width / 2 for g in glyphs), min(g.y - g.height / 2 for g in glyphs)
    right, bottom = max(g.x + g.width / 2 for g in glyphs), max(g.y + g.height / 2 for g in glyphs)
    box = _parts(left, width), _parts(top, height), _parts(right, width), _parts(bottom, height)
    return box if box[0] < box[2] and box[1] < box[3] else None


def _parts(place: float, side: int) -> int:
    return min(1000, max(0, round(place / side * 1000)))


def _things(scene: Scene, fact: Fact) -> list[Glyph]:
    name = {"light": fact.slots_zh.get("color"), "defect": "joint"}.get(fact.kind)
    return [thing for thing in scene.things if thing.character == name]


def _written(scene: Scene, text: str) -> list[Glyph]:
    """The characters of a text that is in the picture exactly once; otherwise none."""
    text = text.replace(" ", "")
    characters = "".join(glyph.character for glyph in scene.glyphs)
    at = characters.find(text)
    if not text or at < 0 or characters.find(text, at + 1) >= 0:
        return []
    return scene.glyphs[at : at + len(text)]


def _is_missing(fact: Fact) -> bool:
    return fact.kind == "light_absent" or (fact.kind == "defect" and fact.zh in NO_DEFECT)


def name(fact: Fact, language: Language, rng: Random) -> str:
    """A name for the subject of the fact."""
    chinese = language == "zh"
    return rng.choice(NAMES[fact.kind][0 if chinese else 1]).format(**(fact.slots_zh if chinese else fact.slots_en))


def ask(scene: Scene, fact: Fact, language: Language, rng: Random, plain: bool = False) -> tuple[str, str]:
    """A question for a fact's place, and its answer; `plain` asks for the box only, without polite additions."""
    side = 0 if language == "zh" else 1
    value = fact.zh if language == "zh" else fact.en
    found = None if _is_missing(fact) else region(scene, fact)
    answer = written(found) if found else value
    wordings = _POINT[side] if fact.kind in _IN_WORDS else _POINT[side] + _WHERE[side]
    if not plain and found and fact.kind != "light" and rng.random() < 0.2:
        wordings, answer = _SAY_AND_POINT[side], value + " " + answer
    question = rng.choice(wordings).format(what=name(fact, language, rng))
    return (question if plain else phrases.polite(question, language, rng)), answer


def written(region: Region) -> str:
    return f"{BEGIN}[[{','.join(str(STEP * round(part / STEP)) for part in region)}]]{END}"


def pointed(text: str) -> Region | None:
    """The first region written in an answer."""
    found = _FOUR_NUMBERS.search(text)
    return (int(found[1]), int(found[2]), int(found[3]), int(found[4])) if found else None


def overlap(one: Region, other: Region) -> float:
    """Intersection over union, from 0 to 1."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0, across) * max(0, down)
    areas = sum(abs((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other))
    return common / (areas - common) if areas > common else 0.0
