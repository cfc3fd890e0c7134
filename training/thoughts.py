"""The reasoning before an answer: one to three short, true sentences on how the picture is read.

Every sentence is true of its scene: where a value is, what is printed before it, how a sum is computed, which joint
looks different. Chinese sentences use characters that are one token each (tested).
"""

from random import Random

from training import pointing
from training.scenes import Fact, Language, Scene, is_han

_LOOKS = {
    "桥接": ("它和后面的焊点连在一起", "solder joins it to the next one"),
    "少锡": ("上面的锡很少", "there is too little solder on it"),
    "虚焊": ("它的表面不光亮", "it is grey and not bright"),
    "锡珠": ("它的边上有锡珠", "a small ball of solder is at its side"),
    "漏焊": ("上面没有锡", "there is no solder on it"),
}
_PARTS = (("图的上面", "图的中间", "图的下面"), ("the upper part", "the middle", "the lower part"))
NO_PICTURE: dict[Language, str] = {
    "zh": "对话里没有图片，要先请用户上传。",
    "en": "There is no picture to read. The user has to upload one.",
}
_MISSING = {
    "labels": ("这是面单或者面板，上面没有这一项。", "This is a label or a panel. It does not have that."),
    "boards": ("这是电路板，上面没有这一项。", "This is a circuit board. It does not have that."),
    "documents": ("这是一张单据，上面没有这一项。", "This is a document. It does not have that."),
}
_USE_TOOLS = (
    ("这件事用{names}来做。", "要用{names}。", "用户要办的事需要{names}。"),
    ("This is a task for {names}.", "I need {names} for this.", "The user wants something that {names} can do."),
)
_READ_FIRST = ("内容从图中读出。", "I read what it needs in the picture.")
_TELL_RESULTS = (
    ("{names}有了结果，告诉用户。", "结果已经有了，简短告诉用户。"),
    ("The result of {names} is there. I tell the user.", "There is an answer, so I tell the user what it says."),
)


def about(scene: Scene, fact: Fact, language: Language, rng: Random) -> str:
    """Reasoning for a question for this fact."""
    side = 0 if language == "zh" else 1
    if scene.job == "boards" and fact.kind.startswith("defect"):
        return _joints(scene)[side]
    if fact.kind.startswith("light"):
        return _lights(scene, fact)[side]
    if fact.kind == "total" or fact.kind.startswith("row_"):
        return _table(scene, fact)[side]
    known = _PLACES.get(fact.kind)
    first = known[side] if known else _title_before(scene, fact, side) or _part(scene, fact, language, rng)
    return _joined([first, _beginning(fact, side) if rng.random() < 0.6 else ""], side)


def place(scene: Scene, fact: Fact, language: Language, rng: Random) -> str:
    """Reasoning for a question for the place of a fact."""
    if pointing.region(scene, fact) is None or fact.kind == "defect":
        return about(scene, fact, language, rng)
    return _part(scene, fact, language, rng)


def missing(scene: Scene, language: Language) -> str:
    return _MISSING[scene.job][0 if language == "zh" else 1]


def description(scene: Scene, language: Language) -> str:
    """Reasoning before a description or a complete transcription."""
    lines = len(scene.lines)
    if language == "zh":
        return f"图中有{lines}行文字，从上到下读。"
    return f"There are {lines} lines of text. I read them from the top down."


def use_tools(names: list[str], in_picture: bool, language: Language, rng: Random) -> str:
    """Reasoning before a call; `in_picture`: its arguments are in the picture."""
    side = 0 if language == "zh" else 1
    first = rng.choice(_USE_TOOLS[side]).format(names=("、", " and ")[side].join(names))
    return _joined([first, _READ_FIRST[side] if in_picture else ""], side)


def report_results(names: list[str], language: Language, rng: Random) -> str:
    """Reasoning before the report of tool results."""
    side = 0 if language == "zh" else 1
    return rng.choice(_TELL_RESULTS[side]).format(names=("、", " and ")[side].join(names))


_PLACES = {  # values with a fixed place in the drawings
    "tracking": ("运单号在条码的下面。", "The tracking number stands under the bar code."),
    "carrier": ("快递公司的名称写在最上面。", "The carrier's name stands at the top."),
    "device": ("设备名称写在面板的最上面。", "The name stands at the top of the panel."),
    "board_number": ("板号是最上面的白色文字。", "The board number is the white text at the top."),
    "title": ("标题写在最上面的中间。", "The title stands at the top, in the middle."),
    "rows": ("前面的数字从上到下是行号，看最后一个。", "The numbers down the side count the rows. I read the last."),
    "columns": ("上面的一行数字是列号，看最后一个。", "The numbers at the top count the columns. I read the last."),
}


def _part(scene: Scene, fact: Fact, language: Language, rng: Random) -> str:
    """The third of the picture with the value, from top to bottom."""
    side = 0 if language == "zh" else 1
    what = pointing.name(fact, language, rng) if fact.kind in pointing.NAMES else ("这一项", "that")[side]
    place = pointing.region(scene, fact)
    if place is None:
        return f"先看图中的{what}在哪里。" if side == 0 else f"First I find {what} in the picture."
    part = _PARTS[side][min(2, (place[1] + place[3]) * 3 // 2000)]
    return f"{what}在{part}。" if side == 0 else f"{_capital(what)} is in {part} of the picture."


def _title_before(scene: Scene, fact: Fact, side: int) -> str:
    """What is printed before the value on its line."""
    line = next((line for line in scene.lines if fact.zh in line), "")
    before = line[: line.find(fact.zh)].split()
    if not before:
        return ""
    title = before[-1].rstrip(":")
    return f"“{title}”的后面就是。" if side == 0 else f"It stands after {title}."


def _beginning(fact: Fact, side: int) -> str:
    value = fact.zh
    if fact.kind == "stamp":
        return f"一共有{len(value)}个字。" if side == 0 and is_han(value) else ""
    start = value.split()[0] if " " in value else value[:1] if is_han(value[0]) else value[:3]
    if start == value:
        return ""
    return f"它以{start}开头。" if side == 0 else f"It begins with {start}."


def _joints(scene: Scene) -> tuple[str, str]:
    found = {fact.kind: fact for fact in scene.facts}
    if "defect_place" not in found:
        return "一行一行看焊点，每个都光亮完好。", "I look at the joints row by row. All of them are bright and whole."
    place, kind = found["defect_place"], found["defect_kind"].zh
    return (
        f"一行一行看焊点，{place.zh}的和别的不同，{_LOOKS[kind][0]}。",
        f"I look at the joints row by row. The one at {place.en} is not like the others: {_LOOKS[kind][1]}.",
    )


def _lights(scene: Scene, fact: Fact) -> tuple[str, str]:
    lights = [light for light in scene.facts if light.kind == "light"]
    zh = "、".join(light.slots_zh["color"] for light in lights)
    colors = [light.slots_en["color"] for light in lights]
    en = ", ".join(colors[:-1]) + " and " + colors[-1]
    if fact.kind == "light_absent":
        zh_absent, en_absent = fact.slots_zh["color"], fact.slots_en["color"]
        return f"灯的颜色有{zh}，没有{zh_absent}色。", f"The lights are {en}. None is {en_absent}."
    if fact.kind == "light_count":
        return f"灯的颜色有{zh}，数一数。", f"The lights are {en}. I count them."
    meaning = fact.slots_zh.get("meaning", fact.zh)
    number = next(at for at, light in enumerate(lights, start=1) if light.zh == meaning)
    if fact.kind == "light":
        color = lights[number - 1]
        return (
            f"一共有{len(lights)}个灯，{color.slots_zh['color']}灯是第{number}个，看它后面的文字。",
            f"There are {len(lights)} lights. The {color.slots_en['color']} one is number {number}. I read its text.",
        )
    return f"写着{meaning}的是第{number}个灯，看它的颜色。", f"{meaning} stands at light {number}. I look at its color."


def _table(scene: Scene, fact: Fact) -> tuple[str, str]:
    cells = {
        kind: [row.zh for row in scene.facts if row.kind == kind]
        for kind in ("row_name", "row_quantity", "row_price", "row_amount")
    }
    if fact.kind == "total":
        sum_ = " + ".join(cells["row_amount"]) + f" = {fact.zh}"
        return f"把每行的金额加起来: {sum_}。", f"The amounts of the rows come to the total: {sum_}."
    if fact.kind == "row_count":
        goods = cells["row_name"]
        return f"货物有{'、'.join(goods)}，数一数。", f"The items are {', '.join(goods)}. I count them."
    row = int(fact.slots_zh["row"]) - 1
    name, quantity, price, amount = (cells[kind][row] for kind in cells)
    if fact.kind == "row_amount":
        return f"{name}在第{row + 1}行: {quantity} * {price} = {amount}。", (
            f"{name} is in row {row + 1}: {quantity} * {price} = {amount}."
        )
    column = ("row_name", "row_quantity", "row_price").index(fact.kind) + 1
    return (
        f"先看表格的第{row + 1}行，{name}，再看第{column}列。",
        f"I find row {row + 1} of the table, {name}, and read column {column}.",
    )


def _joined(sentences: list[str], side: int) -> str:
    return ("" if side == 0 else " ").join(sentence for sentence in sentences if sentence)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
