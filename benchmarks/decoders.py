"""What does decoding in another process add to the time in which a picture question is prepared?

`Preprocessor.prepare` of the demo model gets one picture and a short question. Two contenders take turns, in one
process and on the same bytes: the decoder pool, and the same functions in a thread of this process. Both have the
allocator settings of a replica, and no cache of decoded pictures. Medians of wall time; the warm-up is not counted.

    python -m benchmarks.decoders [--rounds 60] [--save]

The last line on stdout is one JSON object.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from PIL import Image

from benchmarks.photograph import photograph
from benchmarks.report import header, save
from serve_app.contracts import ChatRequest, ImagePart, Message, Sampling, TextPart
from serve_app.metrics import SilentMeter
from serve_app.preprocess.decode import Header, decode_picture, read_header
from serve_app.preprocess.decode_cost import AT_ONCE_S, decode_cost_s
from serve_app.preprocess.decoder_pool import DecodedPicture, DecoderPool, ReadPicture
from serve_app.preprocess.memory_budget import Reservation
from serve_app.preprocess.picture_limits import ImageLabel, PictureLimits
from serve_app.preprocess.prepare import Preprocessor
from serve_app.preprocess.resize import picture_digest, resize_picture
from serve_app.preprocess.size_rule import SizeRule
from serve_app.process_memory import return_memory
from serve_app.ray_flags import EVERYWHERE
from serve_app.settings import ModelSettings, PreprocessSettings

WARM_UP = 4


class DecodingThread:
    """The interface of the decoder pool, without its processes."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def read(
        self,
        file: bytes,
        rule: SizeRule,
        label: ImageLabel,
        limits: PictureLimits,
        held: Reservation,
        max_cpu_s: float,
    ) -> ReadPicture:
        def work() -> ReadPicture:
            found = read_header(file, label, limits)
            size = rule.size(found.width, found.height)
            small = decode_cost_s(found, size[0] * size[1]) <= AT_ONCE_S
            return ReadPicture(found, _decoded(file, found, size, label, limits) if small else None)

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def decode(
        self,
        file: bytes,
        found: Header,
        size: tuple[int, int],
        label: ImageLabel,
        limits: PictureLimits,
        max_cpu_s: float,
    ) -> DecodedPicture:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _decoded, file, found, size, label, limits)


def _decoded(
    file: bytes, found: Header, size: tuple[int, int], label: ImageLabel, limits: PictureLimits
) -> DecodedPicture:
    image = decode_picture(file, found, label, limits.max_pixels)
    pixels = resize_picture(image, *size)
    return DecodedPicture(pixels, picture_digest(pixels), 0.0, 0.0, 0.0)


def pictures() -> dict[str, bytes]:
    """Files by name."""
    small = io.BytesIO()
    Image.open(io.BytesIO(photograph(200, 150))).save(small, "PNG")
    sizes = ((640, 480), (1120, 1120), (1920, 1080), (4000, 3000))
    return {"200x150 PNG": small.getvalue(), **{f"{w}x{h} JPEG": photograph(w, h) for w, h in sizes}}


async def measure(contenders: dict[str, Preprocessor], file: bytes, rounds: int) -> dict[str, Any]:
    spent_ms: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + WARM_UP):
        for name in list(contenders) if turn % 2 else reversed(contenders):
            question = Message("user", (ImagePart(file), TextPart("How many boxes are there?")))
            request = ChatRequest("r", (question,), Sampling())
            began = time.perf_counter()
            await contenders[name].prepare(request)
            if turn >= WARM_UP:
                spent_ms[name].append((time.perf_counter() - began) * 1000)
    found: dict[str, Any] = {f"{name}_ms": round(statistics.median(ms), 2) for name, ms in spent_ms.items()}
    return found | {"added_ms": round(found["pool_ms"] - found["thread_ms"], 2)}


async def run(rounds: int) -> dict[str, Any]:
    settings, model = PreprocessSettings(decoded_cache_mib=0), ModelSettings()
    thread = cast(DecoderPool, DecodingThread())
    pool = DecoderPool(settings)
    contenders = {
        name: Preprocessor(model, settings, SilentMeter(), decoders=decoders)
        for name, decoders in (("thread", thread), ("pool", pool))
    }
    sizes = {}
    for name, file in pictures().items():
        sizes[name] = await measure(contenders, file, rounds if len(file) < 2**20 else max(1, rounds // 4))
        print(f"{name}: {sizes[name]}")
    pool.close()
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="measured rounds of a size; of the largest a quarter")
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()
    allocator = {name: value for name, value in EVERYWHERE.items() if name.startswith("MALLOC_")}
    if not allocator.items() <= os.environ.items():  # it is read when a process starts
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], {**os.environ, **allocator})
    return_memory()
    sizes = asyncio.run(run(options.rounds))
    load = round(os.getloadavg()[0], 1)
    report = header("decoders", ["pillow", "numpy", "cykooz.resizer"]) | {"load": load, "sizes": sizes}
    if options.save:
        save(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
