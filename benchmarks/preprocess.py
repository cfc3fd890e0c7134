"""How many pictures a second does one core prepare: this service and the Hugging Face PIL processor?

The same JPEG bytes (`photograph.py`) go through
- ours: `serve_app.preprocess`, bytes to uint8 pixels at the family's grid, with the content digest;
- theirs: `Image.open(...).convert("RGB")`, then `Glm46VImageProcessorPil` to pixel_values (float32 patches).
Ours leaves normalizing and patchifying to the engine's device, so these are not in its figures. `difference` compares
the two after both are normalized.
One core, one thread each, alternating rounds; the warm-up is not counted; median and p95 of wall time.

    python -m benchmarks.preprocess [--rounds 15] [--save]

The last line on stdout is one JSON object.
"""

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from benchmarks.photograph import photograph
from benchmarks.report import header, save
from serve_app.preprocess.decode import decode_picture, read_header
from serve_app.preprocess.glm4v_grid import Glm4vGrid
from serve_app.preprocess.picture_limits import ImageLabel, PictureLimits
from serve_app.preprocess.resize import HAS_SIMD, picture_digest, resize_picture
from serve_app.settings import PreprocessSettings

SIZES = ((640, 480), (1920, 1080), (4000, 3000))
BUDGET = {"shortest_edge": 12544, "longest_edge": 9633792}  # GLM-4.1V's and GLM-4.6V's preprocessor_config.json
GRID = Glm4vGrid(**BUDGET)
PROCESSOR = Glm46VImageProcessorPil(size=BUDGET)
LABEL = ImageLabel(1, "image")
LIMITS = PictureLimits.of_settings(PreprocessSettings())
PACKAGES = ["pillow", "numpy", "transformers", "cykooz.resizer"]


def ours(data: bytes) -> NDArray[np.uint8]:
    header = read_header(data, LABEL, LIMITS)
    image = decode_picture(data, header, LABEL, LIMITS.max_pixels)
    pixels = resize_picture(image, *GRID.size(header.width, header.height))
    picture_digest(pixels)
    return pixels


def theirs(data: bytes) -> NDArray[np.float32]:
    values: NDArray[np.float32] = PROCESSOR(images=Image.open(io.BytesIO(data)).convert("RGB"))["pixel_values"]
    return values


def difference(data: bytes) -> dict[str, float]:
    """Largest difference in levels of 255, and the share of values that are not equal."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds of each size (default: 15)")
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sizes = {}
    for width, height in SIZES:
        sizes[f"{width}x{height}"] = measured = measure(photograph(width, height), options.rounds)
        for name in ("ours", "hugging_face"):
            print(f"{width}x{height} {name}: {measured[name]}")
    report = header("preprocess", PACKAGES) | {"simd": HAS_SIMD, "rounds": options.rounds, "sizes": sizes}
    if options.save:
        save(report, "" if HAS_SIMD else "-pillow-only")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
