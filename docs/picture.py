"""Draws docs/ask.png, the README's picture: pictures of the evaluation set beside real answers to `glm-serve ask`.

Start the service, then `python docs/picture.py FONT.ttf [URL]`. The font needs Chinese characters (fonts-wqy-microhei).
"""

import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
EVALUATION = Path("benchmarks/evaluation")
SCENES = (
    ("labels-002.jpg", ("运单号是多少?", "What is the phone number?")),
    ("labels-000.jpg", ("这张图里的设备红灯代表什么?",)),
    ("boards-003.jpg", ("Which solder joint is bad, and how?",)),
    ("documents-001.jpg", ("总额是多少?", "What does the stamp say?")),
)
HEIGHT, GAP, TEXT_WIDTH = 190, 18, 820
PAPER, INK, PROMPT, ANSWER = (24, 26, 31), (205, 208, 214), (120, 170, 120), (255, 255, 255)


def ask(picture: str, question: str, url: str) -> str:
    command = [sys.executable, "-m", "serve_app", "ask", "--url", url, str(EVALUATION / picture), question]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    font = ImageFont.truetype(sys.argv[1], 17)
    url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000"
    size = (250 + 3 * GAP + TEXT_WIDTH, len(SCENES) * (HEIGHT + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (name, questions) in enumerate(SCENES):
        top = GAP + index * (HEIGHT + GAP)
        picture = Image.open(ROOT / EVALUATION / name)
        picture.thumbnail((250, HEIGHT))
        sheet.paste(picture, (GAP + (250 - picture.width) // 2, top + (HEIGHT - picture.height) // 2))
        left, line = 250 + 2 * GAP, top + 14
        for question in questions:
            draw.text((left, line), "$", PROMPT, font)
            draw.text((left + 18, line), f'glm-serve ask {name} "{question}"', INK, font)
            draw.text((left, line + 27), ask(name, question, url), ANSWER, font)
            line += 72
    sheet.save(ROOT / "docs" / "ask.png", optimize=True)


if __name__ == "__main__":
    main()
