"""Damaged and random files through the decoders: each is decoded or refused, and none ends a decoder."""

import contextlib
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import ImageRejected
from tests.preprocess.decoders import LABEL, LIMITS, shared_decoders
from tests.preprocess.pictures import encoded, photo

SEEDS = [
    encoded(photo(40, 30), "JPEG"),
    encoded(photo(40, 30), "JPEG", progressive=True),
    encoded(photo(40, 30), "PNG"),
    encoded(photo(40, 30).quantize(16), "PNG", transparency=3),
    encoded(photo(40, 30), "WebP"),
    encoded(photo(40, 30), "GIF", save_all=True, append_images=[photo(40, 30, 1)]),
    encoded(photo(40, 30), "BMP"),
    encoded(photo(40, 30), "TIFF"),
    encoded(photo(40, 30), "TIFF", compression="tiff_lzw"),
    encoded(photo(40, 30), "TIFF", compression="jpeg"),
    encoded(photo(40, 30), "AVIF", speed=10),
    Path(__file__).with_name("heic").joinpath("RGB.heic").read_bytes(),
]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    st.floats(0, 1),
    st.booleans(),
)
async def test_mutated_pictures_are_read_or_refused(
    seed: bytes, changes: list[tuple[float, int]], cut: float, whole: bool
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        # headers break in more ways than pixels: aim at the front
        data[int(place**3 * len(data))] = value
    await read_or_refuse(bytes(data if whole else data[: int(cut * len(data))]))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([seed[:12] for seed in SEEDS] + [b""]), st.binary(max_size=300))
async def test_random_bytes_are_refused(head: bytes, tail: bytes) -> None:
    await read_or_refuse(head + tail)


async def read_or_refuse(data: bytes) -> None:
    pool = shared_decoders()
    with contextlib.suppress(ImageRejected):
        header = await pool.measure(data, LABEL, replace(LIMITS, max_pixels=4_000_000))
        decoded = await pool.decode(data, header, (56, 28), LABEL, LIMITS, 5.0)
        assert decoded.pixels.shape == (28, 56, 3)
