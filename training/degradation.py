"""Degrades a drawing like a camera or a scanner: tilt, blur, glare, shadow, noise, JPEG.

`strength` is from 0 (as drawn) to 1; training raises it slowly. The glyphs are moved with the picture. Noise and light
are cut from tiles that are computed once: new random fields would take longer than the drawing.
"""

from functools import cache
from io import BytesIO
from math import cos, radians, sin
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from training.scenes import Scene

_TILE = 1024
_GRAINS = 6


def degrade(scene: Scene, rng: Random, strength: float) -> None:
    """Degrades the scene's picture and moves all recorded positions with it."""
    if rng.random() < 0.85 * min(1.0, strength * 3):
        _tilt(scene, rng, strength)
    if rng.random() < 0.6 * strength:
        scene.image = scene.image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 1.0) * strength))
    if rng.random() < 0.85 * strength:
        scene.image = _light_and_noise(scene.image, rng, strength)
    if rng.random() < 0.7:
        scene.image = _jpeg(scene.image, rng.randrange(55, 92))


def _tilt(scene: Scene, rng: Random, strength: float) -> None:
    """Rotates, scales, shears and shifts a little; the new area at the edges is a plain surface."""
    width, height = scene.image.size
    reach = 2.0 if scene.job == "boards" else 3.5
    turn = radians(rng.uniform(-reach, reach) * strength)
    scale = 1 + rng.uniform(-0.05, 0.02) * strength
    shear = rng.uniform(-0.03, 0.03) * strength
    # forward map: picture -> degraded picture, about the centre
    a, b = scale * cos(turn), -scale * sin(turn) + shear
    d, e = scale * sin(turn), scale * cos(turn)
    cx, cy = width / 2, height / 2
    dx, dy = rng.uniform(-5, 5) * strength, rng.uniform(-5, 5) * strength
    det = a * e - b * d
    ia, ib, id_, ie = e / det, -b / det, -d / det, a / det
    ox, oy = cx - ia * (cx + dx) - ib * (cy + dy), cy - id_ * (cx + dx) - ie * (cy + dy)
    shade = rng.randrange(30, 230)
    table = (shade, max(0, shade - rng.randrange(0, 30)), max(0, shade - rng.randrange(0, 50)))
    scene.image = scene.image.transform(
        (width, height), Image.Transform.AFFINE, (ia, ib, ox, id_, ie, oy), Image.Resampling.BILINEAR, fillcolor=table
    )
    scene.move((a, b, cx + dx - a * cx - b * cy), (d, e, cy + dy - d * cx - e * cy))


def _light_and_noise(image: Image.Image, rng: Random, strength: float) -> Image.Image:
    width, height = image.size
    window = _window(rng, width, height)
    if rng.random() < 0.5:  # contrast and brightness
        gain, lift = 1 + rng.uniform(-0.28, 0.12) * strength, rng.uniform(-12, 22) * strength
        image = image.point([max(0, min(255, round(level * gain + lift))) for level in range(256)] * 3)
    if rng.random() < 0.45:  # glare: soft white spots
        image.paste((255, 255, 255), (0, 0), _faded(_spots().crop(window), 0.6 * strength))
    if rng.random() < 0.35:  # shadow: a gradient from one side to the other
        slope = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize((width, height))
        image.paste((0, 0, 0), (0, 0), _faded(slope, 0.45 * strength * rng.random()))
    if rng.random() < 0.8:
        grain = _grain(1 + int(rng.random() * strength * (_GRAINS - 1) + 0.5))
        image = ImageChops.add(image, grain.crop(_window(rng, width, height)), 1, -128)
    return image


def _window(rng: Random, width: int, height: int) -> tuple[int, int, int, int]:
    x, y = rng.randrange(_TILE - width), rng.randrange(_TILE - height)
    return (x, y, x + width, y + height)


def _faded(mask: Image.Image, weight: float) -> Image.Image:
    return mask.point([round(level * weight) for level in range(256)])


@cache
def _grain(level: int) -> Image.Image:
    """A tile of grey noise with mean 128 whose deviation grows with the level; pictures use windows of it."""
    noise = np.random.default_rng(level).normal(128, 12 * level / _GRAINS, (_TILE, _TILE))
    return Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).convert("RGB")


@cache
def _spots() -> Image.Image:
    """A tile of broad white spots."""
    grid_y, grid_x = np.mgrid[0:_TILE, 0:_TILE].astype(np.float32)
    rng = np.random.default_rng(11)
    field = np.zeros((_TILE, _TILE), np.float32)
    for _ in range(14):
        x, y, radius = rng.uniform(0, _TILE), rng.uniform(0, _TILE), rng.uniform(50, 130)
        field += np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * radius**2))
    return Image.fromarray((np.clip(field, 0, 1) * 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(BytesIO(buffer.getvalue())).convert("RGB")
