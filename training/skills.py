"""Word pools from which tool definitions, requests and results are composed.

A skill has names, descriptions, arguments, requests and results of one kind of tool. `tools.py` makes definitions,
calls and results of it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Argument:
    """One parameter: the source of its value, possible names and types."""

    source: str  # a kind of fact, or a value of `tools.py`'s own: city, a, b, row, column, passed
    names: tuple[str, ...]
    zh: str
    en: str
    types: tuple[str, ...] = ("string",)
    optional: bool = False  # some definitions omit it


@dataclass(frozen=True)
class Skill:
    """One kind of tool; texts are in Chinese and in English."""

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    descriptions: tuple[tuple[str, ...], tuple[str, ...]]
    arguments: tuple[Argument, ...]
    requests: tuple[tuple[str, ...], tuple[str, ...]]
    result: str  # kind of result: place, time, date, ticket, pages, degrees or sum
    report: tuple[str, str]  # the sentence that reports the result
    needs: str = ""  # a further value in the request: a kind of fact, or a value of `tools.py`'s own


_NUMBER = ("number", "number", "string")
_TRACKING = Argument(
    "tracking", ("waybill", "waybill_number", "tracking_number", "number", "parcel_number", "code", "trackingNumber"),
    "运单号", "tracking number",
)  # fmt: skip
_RECIPIENT = Argument("recipient", ("name", "recipient", "to", "customer", "person"), "收件人姓名", "recipient's name")
_PHONE = Argument("phone", ("phone", "tel", "mobile", "phone_number", "number"), "电话号码", "phone number")
_ADDRESS = Argument("address", ("address", "to_address", "place", "destination"), "地址", "address")
_MODEL = Argument("model", ("model", "model_number", "device_model", "type"), "型号", "model number")
_BOARD = Argument("board_number", ("board", "board_number", "serial", "pcb"), "板号", "board number")
_DOCUMENT = Argument(
    "number", ("number", "document_number", "invoice_number", "id", "no"), "单据编号", "document number"
)
_TOTAL = Argument("total", ("total", "amount", "sum", "total_amount"), "合计金额", "total amount", _NUMBER)
_COMPANY = Argument("party", ("company", "party", "company_name", "customer", "supplier"), "公司名称", "company")
_DATE = Argument("date", ("date", "day", "issued", "document_date"), "日期", "date", optional=True)

SKILLS: dict[str, tuple[Skill, ...]] = {
    "label": (
        Skill(
            ("track", "query", "trace", "check", "find"), ("parcel", "shipment", "package", "waybill", "express"),
            (("查询包裹的物流", "查询快递状态", "按运单号查物流"),
             ("Tracks a parcel.", "Where a parcel is.", "Shipping status of a parcel")),
            (_TRACKING,),
            (("查一下这个包裹的物流。", "这个快递到哪了?", "帮我查物流。", "查询包裹的状态。", "包裹现在在哪里?"),
             ("Track this parcel.", "Where is this parcel now?", "Check the shipping status.",
              "Has this parcel arrived?", "Look up this shipment.")),
            "place", ("包裹已到达{place}。", "The parcel has arrived at {place}."),
        ),
        Skill(
            ("notify", "call", "message", "text", "inform"), ("recipient", "customer", "receiver", "person"),
            (("通知收件人", "给收件人发短信", "打电话给收件人"),
             ("Tells the recipient that the parcel is here.", "Sends a message.", "Calls the recipient.")),
            (_RECIPIENT, _PHONE),
            (("通知收件人来取件。", "给收件人发短信。", "请通知收件人。", "联系收件人。"),
             ("Notify the recipient.", "Tell the recipient that the parcel is here.", "Send the recipient a message.",
              "Contact the recipient.")),
            "time", ("已在{time}通知收件人。", "The recipient was told at {time}."),
        ),
        Skill(
            ("plan", "arrange", "create", "book"), ("delivery", "route", "dispatch"),
            (("安排派送", "安排送货"), ("Plans a delivery.", "Arranges the delivery to an address.")),
            (_ADDRESS, Argument("recipient", _RECIPIENT.names, _RECIPIENT.zh, _RECIPIENT.en, optional=True)),
            (("安排派送。", "请安排送货。", "把这个包裹送出去。"),
             ("Plan the delivery.", "Arrange the delivery of this parcel.", "Have this parcel delivered.")),
            "date", ("会在{date}送货。", "The delivery is planned for {date}."),
        ),
    ),
    "panel": (
        Skill(
            ("open", "create", "file", "report"), ("ticket", "repair", "fault", "service_request"),
            (("报修设备", "创建维修工单"), ("Opens a repair ticket.", "Reports a fault of a device.")),
            (_MODEL, Argument("light", ("fault", "problem", "meaning", "message"), "故障", "what the light means")),
            (("{color}灯亮了,帮我报修。", "{color}灯亮,请创建工单。"),
             ("The {color} light is on, open a ticket.", "Report the fault that the {color} light shows.")),
            "ticket", ("工单已建，号码是{ticket}。", "The ticket is {ticket}."), "light",
        ),
        Skill(
            ("find", "get", "open", "search"), ("manual", "guide", "handbook"),
            (("查找设备说明书", "按型号查说明书"), ("Finds a device's manual.", "The manual of a model")),
            (_MODEL,),
            (("查一下这台设备的说明书。", "帮我找说明书。"), ("Find the manual of this device.", "Get me the manual.")),
            "pages", ("说明书有{pages}页。", "The manual has {pages} pages."),
        ),
        Skill(
            ("register", "add", "save"), ("device", "product", "appliance"),
            (("登记设备", "添加设备"), ("Registers a device.", "Adds a device to the list.")),
            (Argument("device", ("device", "name", "product"), "设备名称", "device"), _MODEL,
             Argument("light_count", ("lights", "light_count", "leds"), "灯的个数", "number of lights", ("integer",),
                      optional=True)),
            (("登记这台设备。", "添加这台设备。"), ("Register this device.", "Add this device.")),
            "ticket", ("设备已记录，编号是{ticket}。", "The device is registered as {ticket}."),
        ),
    ),
    "board": (
        Skill(
            ("report", "record", "log", "mark"), ("defect", "bad_joint", "fault", "solder_defect"),
            (("上报焊接缺陷", "记录坏焊点"), ("Reports a solder defect.", "Records a bad joint.")),
            (Argument("row", ("row", "r", "line"), "行", "row", ("integer",)),
             Argument("column", ("column", "col", "c"), "列", "column", ("integer",)),
             Argument("defect_kind", ("kind", "defect", "type", "defect_type"), "缺陷类型", "kind of defect",
                      optional=True)),
            (("上报这个缺陷。", "登记坏焊点。", "请记录缺陷。"),
             ("Report the defect.", "Record the bad joint.", "Log this defect.")),
            "ticket", ("缺陷已记录，编号是{ticket}。", "The defect is recorded as {ticket}."),
        ),
        Skill(
            ("record", "save", "submit", "store"), ("inspection", "result", "test", "check"),
            (("记录检验结果", "保存检验结果"), ("Records an inspection.", "Saves whether a board passes.")),
            (_BOARD,
             Argument("passed", ("passed", "ok", "pass", "good"), "是否合格", "whether it passes", ("boolean",))),
            (("记录检验结果。", "保存这块板的检验结果。"),
             ("Record the inspection result.", "Save the result for this board.")),
            "ticket", ("结果已保存，记录号是{ticket}。", "The result is saved as {ticket}."),
        ),
    ),
    "document": (
        Skill(
            ("book", "enter", "post", "record"), ("invoice", "document", "bill", "voucher"),
            (("单据入账", "把单据记入账目"), ("Books a document.", "Enters an invoice into the accounts.")),
            (_DOCUMENT, _DATE, _TOTAL, Argument("party", _COMPANY.names, _COMPANY.zh, _COMPANY.en, optional=True)),
            (("把这张单据入账。", "请入账。", "登记这张单据。"),
             ("Book this invoice.", "Enter this document.", "Book this document.")),
            "ticket", ("已入账，记录号是{ticket}。", "It is booked as {ticket}."),
        ),
        Skill(
            ("archive", "file", "store"), ("document", "paper", "scan"),
            (("归档单据", "保存单据"), ("Archives a document.", "Stores a document under its number.")),
            (Argument("title", ("title", "kind", "name"), "单据名称", "title"), _DOCUMENT),
            (("把这张单据归档。", "请归档。"), ("Archive this document.", "Store this document.")),
            "ticket", ("单据已保存，编号是{ticket}。", "The document is stored as {ticket}."),
        ),
        Skill(
            ("pay", "transfer", "send"), ("money", "payment", "amount"),
            (("付款", "给公司付款"), ("Pays a company.", "Makes a payment.")),
            (_COMPANY, _TOTAL),
            (("给这家公司付款。", "请付款。"), ("Pay this bill.", "Pay this company.")),
            "date", ("款项在{date}付清。", "It is paid on {date}."),
        ),
        Skill(
            ("order", "reorder", "buy"), ("goods", "item", "material", "stock"),
            (("订购货物", "再次订货"), ("Orders goods.", "Orders an item again.")),
            (Argument("goods", ("item", "goods", "product", "name"), "货物名称", "item"),
             Argument("row_quantity", ("quantity", "count", "qty", "number"), "数量", "quantity", ("integer",))),
            (("再订一次{goods},数量和表格一样。", "按表格再订{goods}。"),
             ("Order the {goods} again.", "Order as many {goods} as in the table.")),
            "date", ("货物会在{date}送到。", "It is ordered and comes on {date}."), "row_quantity",
        ),
    ),
    "any": (
        Skill(
            ("get", "check", "query"), ("weather", "forecast", "current_weather"),
            (("查询天气", "查询城市的天气"), ("Gets the weather.", "Current weather of a city")),
            (Argument("city", ("city", "location", "place", "town"), "城市", "city"),),
            (("{city}的天气怎么样?", "今天{city}天气如何?", "查一下{city}的天气。"),
             ("What is the weather in {city}?", "How is the weather in {city} today?",
              "What's the weather like in {city}?")),
            "degrees", ("{city}现在{degrees}度。", "It is {degrees} degrees in {city}."), "city",
        ),
        Skill(
            ("add", "sum", "calculate"), ("numbers", "values", "sum"),
            (("计算两个数的和", "加法"), ("Adds two numbers.", "The sum of two numbers")),
            (Argument("a", ("a", "x", "first"), "第一个数", "first number", ("integer", "number")),
             Argument("b", ("b", "y", "second"), "第二个数", "second number", ("integer", "number"))),
            (("{a}加{b}等于多少?", "计算{a}+{b}。"), ("What is {a} plus {b}?", "Add {a} and {b}.")),
            "sum", ("结果是{sum}。", "The result is {sum}."), "a",
        ),
        Skill(
            ("get", "current", "read"), ("time", "clock", "local_time"),
            (("现在的时间", "查询时间"), ("The time now.", "Tells the time.")),
            (), (("现在几点?", "现在是什么时间?"), ("What time is it?", "What is the time now?")),
            "time", ("现在是{time}。", "It is {time}."),
        ),
    ),
}  # fmt: skip
