"""Random names, addresses, goods and codes: all values that a drawing can show.

Given names, street names and company names are combined character by character, so the model cannot guess them from a
list. Latin text in pictures is upper case, as on labels and boards; the tokenizer has one token per capital.
"""

from random import Random

SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董程曹袁邓许沈曾彭吕苏蒋"
GIVEN = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂文辉玲红玉萍鹏飞雪梅华建国志海燕波宁欣怡雨晨浩宇轩子涵"
    "佳琪思远天瑞嘉博雅婷慧颖俊峰凯春兰云龙小美安乐诗景"
)
# (province, city, districts); the province is empty if the city is one.
CITIES = (
    ("", "北京市", ("朝阳区", "海淀区", "东城区", "丰台区")),
    ("", "上海市", ("浦东新区", "徐汇区", "静安区", "长宁区")),
    ("", "天津市", ("和平区", "南开区", "河西区")),
    ("", "重庆市", ("江北区", "渝中区", "南岸区")),
    ("浙江省", "杭州市", ("西湖区", "余杭区", "滨江区")),
    ("浙江省", "宁波市", ("海曙区", "江北区", "镇海区")),
    ("江苏省", "南京市", ("玄武区", "鼓楼区", "江宁区")),
    ("江苏省", "苏州市", ("姑苏区", "吴中区", "相城区")),
    ("广东省", "广州市", ("天河区", "越秀区", "白云区")),
    ("广东省", "深圳市", ("南山区", "福田区", "龙岗区")),
    ("四川省", "成都市", ("武侯区", "锦江区", "青羊区")),
    ("湖北省", "武汉市", ("洪山区", "江汉区", "武昌区")),
    ("湖南省", "长沙市", ("岳麓区", "天心区", "开福区")),
    ("山东省", "青岛市", ("市南区", "城阳区", "黄岛区")),
    ("山东省", "济南市", ("历下区", "市中区", "长清区")),
    ("福建省", "厦门市", ("思明区", "湖里区", "海沧区")),
    ("陕西省", "西安市", ("雁塔区", "莲湖区", "新城区")),
    ("河南省", "郑州市", ("金水区", "中原区", "二七区")),
    ("辽宁省", "大连市", ("中山区", "沙河口区", "西岗区")),
    ("安徽省", "合肥市", ("包河区", "庐阳区", "蜀山区")),
)
ROAD_CHARACTERS = "文三人民解放中山建设和平光明青年长江黄河学院科技创新花园新华东方南北西安康宁永兴金银海天云龙湖滨松柏"
ROAD_ENDINGS = ("路", "路", "街", "大道", "巷")
COMPANY_CHARACTERS = "云海华信金桥东方宏达盛世恒通天元鼎新瑞丰德正博远联众安泰佳美康源龙腾飞星光明立昌永兴"
SECTORS = ("科技", "电子", "贸易", "机械", "食品", "物流", "医药", "建材", "仪器", "包装")
CARRIERS = ("迅达速运", "云鹏快递", "四海物流", "飞马快运", "金雁速递", "通达快递")
CARRIERS_EN = ("SWIFT EXPRESS", "BLUE BIRD POST", "ORION CARGO", "POLAR PARCEL")
GOODS = (
    "螺丝", "轴承", "电机", "电缆", "开关", "水泵", "阀门", "传感器", "显示屏", "打印纸", "键盘", "鼠标", "齿轮",
    "弹簧",
    "电池", "手套", "油漆", "纸箱", "灯管", "插座", "茶叶", "大米", "口罩", "钢管", "铜线", "玻璃", "风扇", "电阻",
    "电容", "胶带",
)  # fmt: skip
GOODS_EN = (
    "BOLT", "BEARING", "MOTOR", "CABLE", "SWITCH", "PUMP", "VALVE", "SENSOR", "SCREEN", "PAPER", "KEYBOARD", "MOUSE",
    "GEAR", "SPRING", "BATTERY", "GLOVES", "PAINT", "CARTON", "LAMP", "SOCKET", "FAN", "FUSE", "TAPE", "FILTER",
)  # fmt: skip
FIRST_NAMES = (
    "ANNA", "EMILY", "GRACE", "LUCY", "SARAH", "KATE", "MARY", "JANE", "ALICE", "HELEN", "OLIVIA", "NINA", "RUBY",
    "IVY",
    "JOHN", "PETER", "DAVID", "JAMES", "OSCAR", "FRANK", "LEO", "MARK", "PAUL", "ERIC", "SIMON", "VICTOR", "HENRY",
    "JACK",
)  # fmt: skip
LAST_NAMES = (
    "SMITH", "BROWN", "CARTER", "DAVIS", "EVANS", "FOSTER", "GREEN", "HUGHES", "JONES", "KING", "LEWIS", "MOORE",
    "NELSON", "OWEN", "PARKER", "QUINN", "REED", "SCOTT", "TURNER", "WALKER", "YOUNG", "ZHANG", "WANG", "LIU", "BAXTER",
)  # fmt: skip
STREETS_EN = (
    "GARDEN", "PARK", "RIVER", "HILL", "LAKE", "MARKET", "SCHOOL", "STATION", "CHURCH", "MILL", "OAK", "MAPLE", "CEDAR",
    "QUEEN", "VICTORIA", "BRIDGE", "HARBOUR", "WEST", "NORTH", "SUNSET",
)  # fmt: skip
CITIES_EN = (
    "SUZHOU",
    "SHENZHEN",
    "LONDON",
    "BERLIN",
    "OXFORD",
    "DUBLIN",
    "SYDNEY",
    "BOSTON",
    "AUSTIN",
    "VIENNA",
    "KYOTO",
)
COMPANIES_EN = (
    "ORION",
    "VEGA",
    "ATLAS",
    "DELTA",
    "NOVA",
    "ZENITH",
    "QUARTZ",
    "PIXEL",
    "HARBOR",
    "SUMMIT",
    "LUMEN",
    "KITE",
)
SECTORS_EN = ("TRADING", "TOOLS", "FOODS", "OPTICS", "PAPER", "METAL", "SUPPLY", "WORKS")
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def digits(rng: Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def letters(rng: Random, count: int) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(count))


def person(rng: Random) -> str:
    given = "".join(rng.choice(GIVEN) for _ in range(rng.choice((1, 2, 2))))
    return rng.choice(SURNAMES) + given


def person_en(rng: Random) -> str:
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"


def phone(rng: Random) -> str:
    return rng.choice(("13", "15", "17", "18", "19")) + digits(rng, 9)


def tracking(rng: Random) -> str:
    return letters(rng, 2) + digits(rng, rng.choice((10, 11, 12)))


def address(rng: Random) -> tuple[str, str]:
    """The region and the street, for two lines."""
    province, city, districts = rng.choice(CITIES)
    region = (province if rng.random() < 0.5 else "") + city + rng.choice(districts)
    road = "".join(rng.choice(ROAD_CHARACTERS) for _ in range(2)) + rng.choice(ROAD_ENDINGS)
    street = f"{road}{rng.randrange(1, 1000)}号"
    if rng.random() < 0.4:
        street += f"{rng.randrange(1, 30)}栋{rng.randrange(1, 30)}{rng.randrange(1, 10):02d}室"
    return region, street


def address_en(rng: Random) -> tuple[str, str]:
    kind = rng.choice(("ROAD", "STREET", "LANE", "AVENUE"))
    return f"{rng.randrange(1, 1000)} {rng.choice(STREETS_EN)} {kind}", f"{rng.choice(CITIES_EN)} {digits(rng, 5)}"


def company(rng: Random) -> str:
    city = rng.choice(CITIES)[1][:-1] if rng.random() < 0.7 else ""
    name = "".join(rng.choice(COMPANY_CHARACTERS) for _ in range(2))
    return f"{city}{name}{rng.choice(SECTORS)}有限公司"


def company_en(rng: Random) -> str:
    return f"{rng.choice(COMPANIES_EN)} {rng.choice(SECTORS_EN)} {rng.choice(('LTD', 'INC', 'CO'))}"


def date(rng: Random) -> str:
    return f"20{rng.randrange(20, 30)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"


def weight(rng: Random) -> str:
    return f"{rng.randrange(1, 300) / 10:.1f}KG"


def model_code(rng: Random) -> str:
    return f"{letters(rng, 2)}-{digits(rng, rng.choice((3, 4)))}"


def picture_characters() -> str:
    """All characters of the lists above, each once, sorted."""
    words: list[str] = [
        SURNAMES, GIVEN, ROAD_CHARACTERS, *ROAD_ENDINGS, COMPANY_CHARACTERS, *SECTORS, *CARRIERS, *GOODS,
        "有限公司号栋室省市区0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-.:/,%#()¥:",
    ]  # fmt: skip
    for province, city, districts in CITIES:
        words += [province, city, *districts]
    return "".join(sorted(set("".join(words))))
