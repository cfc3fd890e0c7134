"""Draws device panels: name and model, and indicator lights with their meanings."""

from random import Random

from training import vocabulary
from training.scenes import Color, Fact, Glyph, Page, Scene, dark, is_han, light

WIDTH, HEIGHT = 448, 336
DEVICES = ("空气净化器", "路由器", "打印机", "热水器", "洗衣机", "充电器", "加湿器", "净水机", "电饭锅", "摄像机")
DEVICES_EN = ("AIR PURIFIER", "ROUTER", "PRINTER", "HEATER", "WASHER", "CHARGER", "WATER FILTER", "CAMERA")
MEANINGS = (
    "电源故障", "电量不足", "网络已连接", "正在充电", "水箱缺水", "温度过高", "滤网需要更换", "待机", "正常运行",
    "正在升级",
    "信号弱", "无网络", "充电完成", "缺纸", "卡纸", "墨量不足", "过载保护", "童锁已开", "正在加热", "保温",
    "漏水报警", "需要清洗",
    "门未关好", "风机故障", "传感器故障", "定时已开", "静音模式", "睡眠模式", "正在录像", "存储已满",
)  # fmt: skip
MEANINGS_EN = (
    "POWER FAULT", "LOW BATTERY", "CONNECTED", "CHARGING", "NO WATER", "TOO HOT", "CHANGE FILTER", "STANDBY", "RUNNING",
    "UPDATING", "WEAK SIGNAL", "NO NETWORK", "FULL CHARGE", "NO PAPER", "PAPER JAM", "LOW INK", "OVERLOAD",
    "CHILD LOCK",
    "HEATING", "KEEP WARM", "LEAK ALARM", "CLEAN ME", "DOOR OPEN", "FAN FAULT", "TIMER ON", "SLEEP MODE", "RECORDING",
)  # fmt: skip
LIGHTS: dict[tuple[str, str], Color] = {
    ("红", "red"): (225, 30, 30),
    ("绿", "green"): (30, 190, 60),
    ("蓝", "blue"): (40, 90, 235),
    ("黄", "yellow"): (245, 215, 30),
    ("紫", "purple"): (160, 50, 200),
    ("白", "white"): (250, 250, 250),
}


def draw_panel(rng: Random) -> Scene:
    chinese = rng.random() < 0.72
    night = rng.random() < 0.45
    shade = rng.randrange(20, 75)
    background = (shade, shade, shade + rng.randrange(0, 15)) if night else light(rng)
    page = Page(rng, WIDTH, HEIGHT, background)
    ink: Color = (235, 235, 235) if night else dark(rng)
    facts = _title(rng, page, ink, chinese)
    colors = rng.sample(list(LIGHTS), rng.randrange(3, 6))
    meanings = rng.sample(MEANINGS if chinese else MEANINGS_EN, len(colors))
    columns = 2 if len(colors) > 3 and rng.random() < 0.35 else 1
    for index, (color, meaning) in enumerate(zip(colors, meanings, strict=True)):
        _light(rng, page, ink, (index, len(colors), columns), color, meaning)
        zh, en = color
        facts.append(Fact("light", meaning, meaning, {"color": zh}, {"color": en}))
        facts.append(Fact("light_color", f"{zh}灯", en, {"meaning": meaning}, {"meaning": meaning}))
    facts.append(Fact("light_count", str(len(colors)), str(len(colors))))
    zh, en = rng.choice([color for color in LIGHTS if color not in colors])
    facts.append(Fact("light_absent", f"图中没有{zh}灯", f"There is no {en} light", {"color": zh}, {"color": en}))
    if rng.random() < 0.6:
        page.draw.rounded_rectangle((5, 5, WIDTH - 6, HEIGHT - 6), 14, outline=ink, width=2)
    return Scene("labels", page.image, facts, page.glyphs, page.lines, page.things)


def _title(rng: Random, page: Page, ink: Color, chinese: bool) -> list[Fact]:
    device = rng.choice(DEVICES if chinese else DEVICES_EN)
    code = vocabulary.model_code(rng)
    x = rng.randrange(18, 50)
    size = rng.randrange(24, 30)
    end = page.write(x, 16, device, size, ink)
    if end + page.width_of(code, size - 4) + 26 < WIDTH - 12 and rng.random() < 0.6:
        page.write(end + 16, 18, code, size - 4, ink, same_line=True)
    else:
        title = rng.choice(("型号", "产品型号")) if chinese else "MODEL"
        end = page.write(x, 22 + size, title, 19, ink)
        page.write(end + 10, 21 + size, code, 21, ink, same_line=True)
    return [Fact("device", device, device), Fact("model", code, code)]


def _light(
    rng: Random, page: Page, ink: Color, place: tuple[int, int, int], color: tuple[str, str], meaning: str
) -> None:
    index, count, columns = place
    rows = -(-count // columns)
    row, column = index // columns, index % columns
    pitch = (HEIGHT - 100) / rows
    middle = 92 + pitch * (row + 0.5)
    radius = rng.randrange(11, 16)
    x = 28 + column * (WIDTH - 40) / columns + rng.randrange(0, 12)
    red, green, blue = LIGHTS[color]
    jitter = rng.randrange(-15, 6)
    fill = (max(0, red + jitter), max(0, green + jitter), max(0, min(255, blue + jitter)))
    page.draw.ellipse((x, middle - radius, x + 2 * radius, middle + radius), fill=fill, outline=ink, width=2)
    # the spotting head learns the light's colour as if its name were written there
    lamp = Glyph(color[0], x + radius, middle, 2 * radius, 2 * radius)
    page.glyphs.append(lamp)
    page.things.append(lamp)
    if rng.random() < 0.5:
        page.draw.ellipse((x + radius * 0.5, middle - radius * 0.6, x + radius, middle - radius * 0.1), fill="white")
    size = rng.randrange(20, 25)
    size = page.fit(meaning, size, WIDTH / columns - 2 * radius - (70 if columns == 1 else 36))
    gap: float = rng.randrange(8, 18)
    if columns == 1 and rng.random() < 0.4 and is_han(meaning):
        gap = page.write(x + 2 * radius + gap, middle - size * 0.62, f"{color[0]}灯", size, ink) - x - 2 * radius + 12
        page.write(x + 2 * radius + gap, middle - size * 0.62, meaning, size, ink, same_line=True)
        return
    page.write(x + 2 * radius + gap, middle - size * 0.62, meaning, size, ink)
