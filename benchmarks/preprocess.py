"""How many pictures a second does one core prepare, beside the Hugging Face PIL processor?

The same JPEG bytes (seeded: gradients, shapes, text and sensor noise) go through
- ours: `serve_app.preprocess.images`, bytes -> uint8 pixels at the family's grid, content digest included;
- theirs: `Image.open(...).convert("RGB")`, then `Glm46VImageProcessorPil` to pixel_values (float32 patches).
Ours leaves normalising and cutting into patches to the engine's device; that is the point of it, and it
is not in these figures. `difference` says how far the two are apart once ours is normalised as well.
One core, one thread each, rounds interleaved, warm-up apart; medians and p95 of wall time.

    python -m benchmarks.preprocess [--rounds 15] [--save]
"""

import argparse
import importlib.metadata
import io
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from serve_app.preprocess import images
from serve_app.preprocess.glm4v import Glm4vGrid
from serve_app.preprocess.resample import simd

SIZES = ((640, 480), (1920, 1080), (4000, 3000))
BUDGET = {"shortest_edge": 12544, "longest_edge": 9633792}  # GLM-4.1V's and GLM-4.6V's preprocessor_config.json
GRID = Glm4vGrid(**BUDGET)
PROCESSOR = Glm46VImageProcessorPil(size=BUDGET)
NAME = images.Name(1, "image")
PACKAGES = ("pillow", "numpy", "transformers", "cykooz.resizer")


def photograph(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG of quality 88, about 2 bits a pixel, as telephones make them."""
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


def ours(data: bytes) -> NDArray[np.uint8]:
    header = images.read_header(data, NAME, 20 * 2**20, 50_000_000)
    image = images.decode(data, header, NAME, 50_000_000)
    pixels = images.resize(image, *GRID.size(header.width, header.height))
    images.content_digest(pixels)
    return pixels


def theirs(data: bytes) -> NDArray[np.float32]:
    values: NDArray[np.float32] = PROCESSOR(images=Image.open(io.BytesIO(data)).convert("RGB"))["pixel_values"]
    return values


def difference(data: bytes) -> dict[str, float]:
    """In levels of 255, over all values."""
    pixels = ours(data)
    height, width, _ = pixels.shape
    values = theirs(data).reshape(height // 28, width // 28, 2, 2, 3, 2, 14, 14)[:, :, :, :, :, 0]
    values = values.transpose(0, 2, 5, 1, 3, 6, 4).reshape(height, width, 3)
    levels = np.rint((values * np.asarray(PROCESSOR.image_std) + np.asarray(PROCESSOR.image_mean)) * 255)
    apart = np.abs(levels - pixels)
    return {"max_levels": float(apart.max()), "share_not_equal": round(float((apart > 0).mean()), 6)}


def measure(data: bytes, rounds: int) -> dict[str, Any]:
    contenders: dict[str, Callable[[bytes], Any]] = {"ours": ours, "hugging_face": theirs}
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 2):
        for name, prepare in contenders.items():
            began = time.perf_counter()
            prepare(data)
            if turn >= 2:
                spent[name].append(time.perf_counter() - began)
    result: dict[str, Any] = {"jpeg_bytes": len(data), "seen": list(reversed(ours(data).shape[:2]))}
    for name, seconds in spent.items():
        median = statistics.median(seconds)
        result[name] = {
            "pictures_per_s": round(1 / median, 1),
            "p50_ms": round(median * 1000, 2),
            "p95_ms": round(float(np.quantile(seconds, 0.95)) * 1000, 2),
        }
    result["times_faster"] = round(result["ours"]["pictures_per_s"] / result["hugging_face"]["pictures_per_s"], 2)
    return {**result, "difference": difference(data)}


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return {"cpu": found[0] if found else platform.machine(), "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures per second and core, beside the Hugging Face PIL processor.")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds of each size (default 15)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/preprocess-<date>.json")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sizes = {}
    for width, height in SIZES:
        sizes[f"{width}x{height}"] = measured = measure(photograph(width, height), arguments.rounds)
        for name in ("ours", "hugging_face"):
            print(f"{width}x{height} {name}: {measured[name]}")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "benchmark": "preprocess",
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": machine(),
        "versions": versions(),
        "simd": simd is not None,
        "rounds": arguments.rounds,
        "sizes": sizes,
    }
    if arguments.save:
        suffix = "" if simd is not None else "-pillow-only"
        path = Path(__file__).parent / "results" / f"preprocess-{result['date']}{suffix}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
