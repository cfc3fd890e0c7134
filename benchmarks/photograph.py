"""Seeded JPEG pictures for load: gradients, shapes, text and sensor noise."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def photograph(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG of quality 88 with about 2 bits a pixel, like a photograph of a mobile phone; sizes in pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    light = 90 + 110 * (x / width)[..., None] * np.asarray([1.0, 0.9, 0.7]) + 40 * np.sin(y / 37)[..., None]
    image = Image.fromarray((light + rng.normal(0, 5, (height, width, 3))).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=height / 30)
    for _ in range(60):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        draw.rectangle((left, top, left + width // 12, top + height // 18), fill=color)
        draw.text((int(rng.integers(width)), int(rng.integers(height))), "SHIP 4093-7716 红灯", fill=color, font=font)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
