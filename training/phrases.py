"""Wordings of questions in both languages, and sentences that describe a picture.

A wording has slots in braces, which a fact fills. All questions in training come from here, so questions with very
different wordings may get wrong answers.
"""

from random import Random

from training.boards import NO_DEFECT
from training.scenes import Fact, Language, Scene

QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "carrier": (
        ("这是哪家快递公司?", "快递公司是哪家?", "承运公司叫什么?", "用的什么快递?"),
        ("Which carrier is it?", "What is the carrier's name?", "Which courier company?", "Who ships this parcel?"),
    ),
    "tracking": (
        ("运单号是多少?", "快递单号是什么?", "单号是多少?", "请读出运单号。", "这张面单的单号是多少?",
        "运单编号是什么?", "快递号码是多少?",
         "物流单号是多少?", "请告诉我快递单号", "图中的运单号是什么?"),
        ("What is the tracking number?", "Tracking number?", "Read the tracking number.", "What's the parcel number?",
         "Please give me the tracking number.", "What is the waybill number?",
         "Which tracking number is on the label?"),
    ),
    "recipient": (
        ("收件人是谁?", "收件人叫什么名字?", "收货人是谁?", "这个快递寄给谁?", "收件人姓名是什么?", "谁收这个包裹?",
        "请读出收件人。"),
        ("Who is the recipient?", "What is the recipient's name?", "Recipient?", "Who is the parcel for?",
         "Read the recipient's name.", "Who receives this parcel?"),
    ),
    "phone": (
        ("收件人电话是多少?", "电话号码是多少?", "收件人的手机号是多少?", "联系电话是什么?", "手机号码是多少?",
        "请读出收件人的电话。", "收货人电话多少?"),
        ("What is the recipient's phone number?", "What is the phone number?", "Phone number?",
         "Read the recipient's phone number.", "What's the telephone number of the recipient?"),
    ),
    "address": (
        ("收件地址是什么?", "收件人地址是什么?", "寄到哪里?", "地址是什么?", "收货地址在哪里?", "请读出收件地址。",
        "包裹要送到什么地方?", "送货地址是什么?"),
        ("What is the address?", "What is the delivery address?", "Where does it go?", "Recipient's address?",
         "Read the address.", "Where should the parcel be delivered?", "What is the recipient's address?"),
    ),
    "sender": (
        ("寄件人是谁?", "发货人是谁?", "谁寄的?", "寄件人叫什么名字?"),
        ("Who is the sender?", "What is the sender's name?", "Who sent it?", "Sender?"),
    ),
    "sender_phone": (
        ("寄件人电话是多少?", "寄件人的手机号是多少?", "发货人电话是多少?"),
        ("What is the sender's phone number?", "Sender's phone?"),
    ),
    "goods": (
        ("寄的是什么东西?", "物品是什么?", "里面是什么货?", "包裹里是什么?"),
        ("What is inside?", "What goods are in the parcel?", "What item is shipped?"),
    ),
    "weight": (
        ("重量是多少?", "包裹多重?", "多少公斤?"),
        ("What is the weight?", "How heavy is the parcel?", "Weight?"),
    ),
    "label_date": (
        ("日期是哪天?", "寄件日期是什么?", "面单上的日期是多少?"),
        ("What is the date?", "What date is on the label?", "Date?"),
    ),
    "device": (
        ("这是什么设备?", "设备名称是什么?", "这是什么产品?"),
        ("What device is it?", "What is the device's name?", "Which product is this?"),
    ),
    "model": (
        ("型号是多少?", "产品型号是什么?", "设备型号是什么?", "这台设备的型号是多少?"),
        ("What is the model?", "What is the model number?", "Which model is it?", "Model?"),
    ),
    "light": (
        ("这张图里的设备{color}灯代表什么?", "这张图里的设备{color}灯代表什么", "{color}灯代表什么?",
        "{color}灯是什么意思?", "{color}灯亮是什么意思?",
         "{color}色指示灯表示什么?", "{color}灯亮了说明什么?", "设备{color}灯表示什么?", "亮{color}灯是怎么回事?",
         "{color}色的灯代表什么含义?",
         "图中{color}灯的含义是什么?"),
        ("What does the {color} light mean?", "What does the {color} light stand for?",
        "What is the {color} light for?",
         "The {color} light is on, what does it mean?", "Meaning of the {color} light?",
         "What does the {color} indicator mean?"),
    ),
    "light_color": (
        ("哪个灯表示{meaning}?", "{meaning}是什么颜色的灯?", "{meaning}时亮什么灯?", "什么颜色的灯代表{meaning}?"),
        ("Which light means {meaning}?", "What color is the light for {meaning}?", "Which color stands for {meaning}?"),
    ),
    "light_count": (
        ("有几个指示灯?", "图中有多少个灯?", "一共有几个灯?"),
        ("How many lights are there?", "How many indicator lights?", "Count the lights."),
    ),
    "defect": (
        ("哪个焊点有问题?", "哪个焊点有缺陷,是什么缺陷?", "请检查焊点。", "这块板子有什么问题?",
        "焊点有缺陷吗?在哪里?", "哪一行哪一列的焊点坏了,怎么坏的?",
         "请指出有缺陷的焊点和缺陷类型。", "检查这块电路板。", "电路板哪里有缺陷?", "哪个焊点不良?",
         "请检测电路板的焊接缺陷。"),
        ("Which solder joint is bad, and how?", "Which joint has a defect?", "Inspect the solder joints.",
         "What is wrong with this board?", "Find the bad solder joint.", "Where is the defect and what is it?",
         "Inspect this board.", "Which solder joint is bad?", "Is there a bad joint? Where, and what kind?"),
    ),
    "defect_kind": (
        ("是什么缺陷?", "缺陷类型是什么?", "属于哪种焊接缺陷?", "只说缺陷类型。"),
        ("What kind of defect is it?", "Which type of defect?", "Name the defect only."),
    ),
    "defect_place": (
        ("缺陷在第几行第几列?", "坏焊点的位置在哪里?", "哪一行哪一列?", "只说坏焊点的位置。"),
        ("In which row and column is the defect?", "Where is the bad joint?", "Position of the bad joint?"),
    ),
    "defect_exists": (
        ("这块板合格吗?", "电路板是否合格?", "合格还是不合格?", "能通过检验吗?"),
        ("Does the board pass?", "Pass or fail?", "Is the board good?"),
    ),
    "board_number": (
        ("板号是多少?", "电路板的编号是什么?", "板子上印的编号是多少?", "请读出板号。"),
        ("What is the board number?", "What is the number printed on the board?", "Board number?",
        "Read the board number."),
    ),
    "rows": (("焊点有几行?", "一共几行焊点?"), ("How many rows of joints?", "How many rows are there?")),
    "columns": (("焊点有几列?", "一共几列焊点?"), ("How many columns of joints?", "How many columns are there?")),
    "title": (
        ("这是什么单据?", "单据名称是什么?", "文件标题是什么?", "这是什么文件?"),
        ("What is the title?", "What kind of document is it?", "What is the document's title?"),
    ),
    "number": (
        ("单据编号是多少?", "编号是多少?", "单号是多少?", "这张单据的编号是什么?", "请读出编号。", "文件编号是多少?"),
        ("What is the document number?", "What is the number?", "Document number?", "Read the document number.",
         "What is the number of this document?"),
    ),
    "date": (
        ("日期是哪天?", "日期是多少?", "单据日期是什么?", "开单日期是哪一天?", "什么时候开的?"),
        ("What is the date?", "Date?", "What date is on the document?", "When was it issued?"),
    ),
    "party": (
        ("公司名称是什么?", "对方单位是谁?", "客户是哪家公司?", "单位名称是什么?", "供应商或客户是谁?",
        "单据上的公司是哪家?"),
        ("What is the company's name?", "Which company is it?", "Who is the other party?", "Company?",
         "Which company is named in the document?"),
    ),
    "contact": (("联系人是谁?", "联系人叫什么?"), ("Who is the contact?", "Contact person?",
    "What is the contact's name?")),
    "contact_phone": (
        ("电话是多少?", "联系电话是多少?", "电话号码是多少?"),
        ("What is the phone number?", "Phone number?", "What telephone number is given?"),
    ),
    "row_quantity": (
        ("{goods}的数量是多少?", "{goods}有多少个?", "第{row}行的数量是多少?"),
        ("What is the quantity of {goods}?", "How many {goods}?", "What is the quantity in row {row}?"),
    ),
    "row_price": (
        ("{goods}的单价是多少?", "{goods}多少钱一个?", "第{row}行的单价是多少?"),
        ("What is the unit price of {goods}?", "What is the price of {goods}?", "What is the price in row {row}?"),
    ),
    "row_amount": (
        ("{goods}的金额是多少?", "{goods}一共多少钱?", "第{row}行的金额是多少?"),
        ("What is the amount for {goods}?", "What do the {goods} cost in all?", "What is the amount in row {row}?"),
    ),
    "row_name": (
        ("第{row}行是什么货物?", "表格第{row}行的名称是什么?"),
        ("Which item is in row {row}?", "What is the item in row {row}?"),
    ),
    "row_count": (("表格有几行货物?", "一共几种货物?"), ("How many items are in the table?",
    "How many rows of items?")),
    "total": (
        ("合计是多少?", "合计金额是多少?", "总金额是多少?", "总计多少钱?", "一共多少钱?", "表格的合计是多少?",
        "请读出总额。"),
        ("What is the total?", "What is the total amount?", "Total?", "What does the total come to?",
         "Read the total amount.", "What is the sum of the table?"),
    ),
    "clerk": (("经办人是谁?", "谁经办的?", "制单人是谁?"), ("Who is the clerk?", "Clerk's name?")),
    "stamp": (
        ("印章上写的是什么?", "章上的文字是什么?", "盖的什么章?", "印章内容是什么?", "图章上写着什么?",
        "请读出印章文字。"),
        ("What does the stamp say?", "What is written on the stamp?", "Stamp text?", "Read the stamp.",
         "Which words are on the stamp?"),
    ),
}  # fmt: skip
QUESTIONS["light_absent"] = QUESTIONS["light"]

READ_ALL = (
    (
        "请读出图中所有文字。",
        "图里写了什么?",
        "把图中的文字全部读出来。",
        "识别图中文字。",
        "提取所有文字",
        "请做文字识别。",
    ),
    ("Read all the text.", "What is written in the picture?", "Transcribe the picture.", "Extract all text.", "OCR"),
)
DESCRIBE = (
    (
        "描述这张图片。",
        "请描述一下这张图。",
        "这张图里有什么?",
        "图片里是什么?",
        "介绍一下这张图片",
        "请详细说明图片内容。",
    ),
    (
        "Describe the picture.",
        "Describe this image.",
        "What is in the picture?",
        "What do you see?",
        "Tell me about the image.",
    ),
)
AS_JSON = (
    ("把主要信息整理成JSON。", "请用JSON格式输出。", "提取字段,输出JSON", "以JSON返回主要字段。"),
    ("Give the main fields as JSON.", "Return JSON.", "Extract the fields as JSON."),
)
_TAILS = (
    ("", "", "", "", "请直接回答。", "只回答结果。", "谢谢"),
    ("", "", "", "", " Answer briefly.", " Only the answer.", " Thanks"),
)
_HEADS = (("", "", "", "", "请问", "你好,", "请问一下,"), ("", "", "", "", "Hello, ", "Please: "))
_FULL_WIDTH = str.maketrans({",": "\uff0c", "?": "\uff1f", "!": "\uff01", ":": "\uff1a"})
ASIDES = (("".join(_HEADS[0] + _TAILS[0]),), ("".join(_HEADS[1] + _TAILS[1]),))
JSON_KINDS = {
    "labels": ("tracking", "recipient", "phone", "address", "device", "model"),
    "boards": ("board_number", "defect_exists", "defect_place", "defect_kind"),
    "documents": ("title", "number", "date", "party", "total", "stamp"),
}
ABSENT: dict[Language, str] = {"zh": "图中没有这项内容。", "en": "It is not in the picture."}
NO_PICTURE: dict[Language, str] = {
    "zh": "请上传一张图片，我可以读快递面单和设备面板、检查电路板、识别单据。",
    "en": "Please upload a picture: I can read labels and panels, inspect boards and read documents.",
}
SMALL_TALK: dict[Language, tuple[str, ...]] = {
    "zh": (
        "你好",
        "你好!",
        "您好",
        "在吗?",
        "你是谁?",
        "你能做什么?",
        "介绍一下你自己",
        "帮帮我",
        "今天天气怎么样?",
        "讲个笑话",
    ),
    "en": ("Hello", "Hi", "Hi there!", "Who are you?", "What can you do?", "Help", "Tell me a joke.", "How are you?"),
}
SYSTEM = (
    "你是一个客服助手。", "你是智能客服,请简短回答。", "请用简洁的语言回答用户的问题。", "你是质检员。",
    "You are a helpful assistant.",
    "You answer questions about pictures.", "Answer briefly.", "You are a customer service agent.",
)  # fmt: skip
FIRST_SECOND: dict[Language, tuple[tuple[str, str], ...]] = {
    "zh": (("第一张图:", "第二张图:"), ("第一张图,", "第二张图,"), ("图一:", "图二:"), ("第1张图片:", "第2张图片:")),
    "en": (("First picture: ", "Second picture: "), ("In the first image: ", "In the second image: ")),
}


def ask(fact: Fact, language: Language, rng: Random, plain: bool = False) -> tuple[str, str]:
    """A question for the fact, and its answer; `plain` omits polite additions."""
    chinese = language == "zh"
    wordings = QUESTIONS[fact.kind][0 if chinese else 1]
    question = rng.choice(wordings).format(**(fact.slots_zh if chinese else fact.slots_en))
    return (question if plain else polite(question, language, rng)), fact.zh if chinese else fact.en


def polite(question: str, language: Language, rng: Random) -> str:
    side = 0 if language == "zh" else 1
    question = rng.choice(_HEADS[side]) + question + rng.choice(_TAILS[side])
    if language == "zh":  # people type either width, or omit the punctuation mark
        if rng.random() < 0.65:
            question = question.translate(_FULL_WIDTH)
        if rng.random() < 0.25:
            question = question.rstrip("?!.\uff1f\uff01\u3002")
    return question


def as_json(scene: Scene, language: Language) -> str:
    found = {fact.kind: fact for fact in scene.facts}
    pairs = []
    for kind in JSON_KINDS[scene.job]:
        if kind in found:
            answer = found[kind].zh if language == "zh" else found[kind].en
            pairs.append(f'"{kind}": "{answer}"')
    return "{" + ", ".join(pairs) + "}"


def describe(scene: Scene, language: Language) -> str:
    answers = {f.kind: (f.zh if language == "zh" else f.en) for f in scene.facts}
    return (_describe_zh if language == "zh" else _describe_en)(scene, answers)


def _describe_zh(scene: Scene, answers: dict[str, str]) -> str:
    if scene.job == "boards":
        text = f"这是一块电路板，板号是{answers['board_number']}，焊点共{answers['rows']}行{answers['columns']}列。"
        return text + ("所有焊点都正常。" if answers["defect"] in NO_DEFECT else f"缺陷位置:{answers['defect']}。")
    if "device" in answers:
        lights = "".join(f"{f.slots_zh['color']}灯表示{f.zh};" for f in scene.facts if f.kind == "light")
        text = f"这是{answers['device']}的面板，型号是{answers['model']}，"
        return text + f"有{answers['light_count']}个指示灯:{lights[:-1]}。"
    if scene.job == "labels":
        return (
            f"这是一张{answers['carrier']}的快递面单，运单号是{answers['tracking']}，收件人是{answers['recipient']}，"
            f"电话是{answers['phone']}，地址是{answers['address']}。"
        )
    text = f"这是一张{answers['title']}，编号是{answers['number']}，日期是{answers['date']}，单位是{answers['party']}。"
    text += f"表格有{answers['row_count']}行货物，合计{answers['total']}。"
    return text + (f"印章上写着{answers['stamp']}。" if "stamp" in answers else "没有印章。")


def _describe_en(scene: Scene, answers: dict[str, str]) -> str:
    if scene.job == "boards":
        text = f"This is board {answers['board_number']} with {answers['rows']} rows and {answers['columns']} columns. "
        return text + ("All joints are good." if answers["defect"] in NO_DEFECT else f"Defect: {answers['defect']}.")
    if "device" in answers:
        lights = ", ".join(f"{f.slots_en['color']} means {f.en}" for f in scene.facts if f.kind == "light")
        return f"This is the panel of {answers['device']}, model {answers['model']}. The lights: {lights}."
    if scene.job == "labels":
        return (
            f"This is a shipping label of {answers['carrier']}, tracking number {answers['tracking']}, "
            f"to {answers['recipient']}, phone {answers['phone']}, address {answers['address']}."
        )
    text = f"This is {answers['title']} number {answers['number']} of {answers['date']} for {answers['party']}. "
    text += f"The table has {answers['row_count']} items, total {answers['total']}. "
    return text + (f"The stamp says {answers['stamp']}." if "stamp" in answers else "There is no stamp.")
