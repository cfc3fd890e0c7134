import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from serve_app.errors import ImageRejected, Overloaded
from serve_app.preprocess.decode import decode_picture, read_header
from serve_app.preprocess.decode_cost import SMALL_S, decode_cost_s
from serve_app.preprocess.decoder_pool import DecodedPicture, DecoderPool, ReadPicture
from serve_app.preprocess.glm4v_grid import Glm4vGrid
from serve_app.preprocess.memory_budget import MemoryBudget
from serve_app.preprocess.resize import picture_digest, resize_picture
from serve_app.preprocess.size_rule import SizeRule
from serve_app.settings import PreprocessSettings
from tests.preprocess.decoders import LABEL, LIMITS, ids_when_all_run, shared_decoders
from tests.preprocess.hostile import flat_webp, jpeg_of_scans, run_length_bmp, tiff_of_strips
from tests.preprocess.pictures import encoded, hollow, photo

SMALL = encoded(photo(448, 336), "JPEG")
LARGE = flat_webp()
HEIC = Path(__file__).with_name("heic").joinpath("RGB.heic").read_bytes()
MANY_SCANS = replace(LIMITS, max_scans=10_000)
RULE = SizeRule(grid=Glm4vGrid(), max_tokens=6144)


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


async def decode(
    pool: DecoderPool, file: bytes, size: tuple[int, int] = (448, 336), max_cpu_s: float = 20.0
) -> DecodedPicture:
    header = await pool.measure(file, LABEL, MANY_SCANS)
    return await pool.decode(file, header, size, LABEL, MANY_SCANS, max_cpu_s)


async def read(file: bytes, rule: SizeRule = RULE, memory: int = 2**30) -> ReadPicture:
    with MemoryBudget(memory).reservation() as held:
        return await shared_decoders().read(file, rule, LABEL, LIMITS, held, 20)


def page_faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])


@pytest.fixture
async def busy_pool() -> AsyncIterator[DecoderPool]:
    """The shared pool while four callers send it large pictures without a pause."""
    pool = shared_decoders()
    await decode(pool, SMALL)

    async def attack() -> None:
        while True:
            await decode(pool, LARGE)

    attackers = [asyncio.create_task(attack()) for _ in range(4)]
    await asyncio.sleep(0.3)
    yield pool
    for task in attackers:
        task.cancel()
    ended = await asyncio.gather(*attackers, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)


async def test_pixels_and_digest_are_those_of_decoding_in_this_process() -> None:
    decoded = await decode(shared_decoders(), SMALL, (252, 196))
    expected = resize_picture(
        decode_picture(SMALL, read_header(SMALL, LABEL, LIMITS), LABEL, LIMITS.max_pixels), 252, 196
    )
    assert np.array_equal(decoded.pixels, expected)
    assert decoded.digest == picture_digest(expected)


@pytest.mark.parametrize("rule", [RULE, SizeRule(square=224)])
async def test_a_small_picture_is_decoded_with_its_header_to_the_size_of_the_family(rule: SizeRule) -> None:
    found = await read(SMALL, rule)
    assert found.header == read_header(SMALL, LABEL, LIMITS)
    assert isinstance(found.decoded, DecodedPicture)
    apart = await decode(shared_decoders(), SMALL, rule.size(448, 336))
    assert found.decoded.digest == apart.digest == picture_digest(found.decoded.pixels)


async def test_a_large_or_very_long_picture_is_only_measured() -> None:
    assert (await read(LARGE)).decoded is None
    assert (await read(encoded(photo(1000, 4)))).decoded is None


async def test_damage_of_a_small_picture_is_returned_with_its_header() -> None:
    found = await read(hollow(640, 480))
    assert (found.header.width, found.header.height) == (640, 480)
    assert isinstance(found.decoded, ImageRejected)
    assert found.decoded.param == LABEL.param


async def test_pixels_above_the_memory_budget_are_refused_and_the_decoder_goes_on() -> None:
    await read(SMALL)
    before = await ids_when_all_run(shared_decoders())
    with pytest.raises(Overloaded):
        await read(SMALL, memory=1000)
    assert set(shared_decoders().process_ids) == before


async def test_a_decoder_reuses_its_memory_for_the_next_picture() -> None:
    """New pages cost more time than the decoding: 4,290 faults for a picture of 1120 x 1120."""
    pool = DecoderPool(PreprocessSettings(decoders=1))
    file = encoded(photo(1120, 1120), "JPEG")
    for _ in range(3):
        await decode(pool, file, (1120, 1120))
    before = page_faults(pool.process_ids[0])
    for _ in range(3):
        await decode(pool, file, (1120, 1120))
    assert page_faults(pool.process_ids[0]) - before < 300
    pool.close()


async def test_what_a_decoder_refuses_names_the_picture_and_the_process_goes_on() -> None:
    pool = shared_decoders()
    await decode(pool, SMALL)
    before = await ids_when_all_run(pool)
    for file, reason in ((b"hello", "a text"), (hollow(640, 480), "damaged or incomplete PNG")):
        with pytest.raises(ImageRejected, match=rf"^Picture 2 is .*{reason}") as refused:
            await decode(pool, file)
        assert refused.value.param == LABEL.param
    assert before <= set(pool.process_ids)


def test_a_jpeg_of_1500_scans_is_refused_by_its_header() -> None:
    with pytest.raises(ImageRejected, match=r"progressive JPEG of 15\d\d scans; the limit is 100"):
        read_header(jpeg_of_scans(1500), LABEL, LIMITS)
    assert read_header(encoded(photo(64, 64), "JPEG", progressive=True), LABEL, LIMITS).scans == 10


def test_a_large_bmp_with_run_lengths_is_refused_by_its_header() -> None:
    with pytest.raises(ImageRejected, match=r"BMP file of 48 megapixels in a compression .* limit for it is 4\."):
        read_header(run_length_bmp(), LABEL, LIMITS)


@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
def test_a_tiff_of_a_million_strips_is_refused_before_pillow_lists_them(big: bool) -> None:
    with pytest.raises(ImageRejected, match="TIFF of 1000000 strips or tiles; the limit is 65536"):
        read_header(tiff_of_strips(1_000_000, big), LABEL, LIMITS)


async def test_the_memory_of_a_large_picture_is_returned() -> None:
    """A worker kept 330 MiB after an AVIF of 64 megapixels."""
    avif = encoded(Image.new("RGB", (6000, 6000), "white"), "AVIF", speed=10)
    pool = shared_decoders()
    await decode(pool, avif)
    await decode(pool, SMALL)
    assert all(psutil.Process(pid).memory_full_info().uss < 160 * 2**20 for pid in pool.process_ids)


async def test_a_small_bmp_with_run_lengths_is_decoded() -> None:
    decoded = await decode(shared_decoders(), run_length_bmp(800, 600))
    assert decoded.pixels[:, 10].max() == 0


async def test_a_decoder_ends_when_its_cpu_budget_is_spent() -> None:
    pool = shared_decoders()
    with pytest.raises(ImageRejected, match=r"Picture 2 takes more than 0.3 seconds of CPU time"):
        await decode(pool, jpeg_of_scans(1500), max_cpu_s=0.3)
    assert (await decode(pool, SMALL)).pixels.shape == (336, 448, 3)


async def test_a_small_picture_is_fast_while_others_send_large_ones(busy_pool: DecoderPool) -> None:
    waits = []
    for _ in range(8):
        began = time.monotonic()
        await decode(busy_pool, SMALL)
        waits.append(time.monotonic() - began)
    assert max(waits) < 2, waits


async def test_a_large_picture_does_not_wait_for_ever_behind_small_ones() -> None:
    pool = shared_decoders()

    async def many() -> None:
        while True:
            await decode(pool, SMALL)

    crowd = [asyncio.create_task(many()) for _ in range(6)]
    assert (await asyncio.wait_for(decode(pool, flat_webp(4000, 3000)), 60)).pixels.shape == (336, 448, 3)
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)


async def test_a_caller_that_leaves_ends_the_decoding_of_its_picture() -> None:
    pool = shared_decoders()
    file = jpeg_of_scans(1500)
    header = await pool.measure(file, LABEL, MANY_SCANS)
    before = await ids_when_all_run(pool)
    decoding = asyncio.create_task(pool.decode(file, header, (448, 336), LABEL, MANY_SCANS, 20))
    await asyncio.sleep(0.2)
    decoding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decoding
    began = time.monotonic()
    while await ids_when_all_run(pool) == before:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.01)
    (ended,) = before - set(pool.process_ids)
    assert not exists(ended)
    await decode(pool, file=SMALL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
async def test_nobody_notices_that_a_decoder_was_killed(how: signal.Signals) -> None:
    """A crash may be the fault of the picture before, which corrupted the decoder's memory."""
    pool = shared_decoders()
    await decode(pool, SMALL)
    files = [encoded(photo(600, 400, seed), "PNG") for seed in range(12)]
    running = [asyncio.create_task(decode(pool, file)) for file in files]
    await asyncio.sleep(0.02)
    for pid in pool.process_ids:
        os.kill(pid, how)
    decoded = await asyncio.gather(*running)
    assert len({picture.digest for picture in decoded}) == 12


async def test_a_picture_that_crashes_two_decoders_is_refused() -> None:
    pool = DecoderPool(PreprocessSettings(decoders=1))
    decoding = asyncio.create_task(decode(pool, jpeg_of_scans(1500)))
    while not decoding.done():
        await asyncio.sleep(0.3)
        for pid in pool.process_ids:
            os.kill(pid, signal.SIGSEGV)
    with pytest.raises(ImageRejected, match="crashes the decoder"):
        decoding.result()
    pool.close()


async def test_a_decoder_is_replaced_after_each_heic_file() -> None:
    pool = DecoderPool(PreprocessSettings(decoders=1))
    await decode(pool, SMALL)
    before = pool.process_ids
    await decode(pool, HEIC)
    await decode(pool, SMALL)
    assert pool.process_ids != before
    pool.close()


async def test_a_decoder_that_has_leaked_memory_is_replaced() -> None:
    pool = DecoderPool(PreprocessSettings(decoders=1), retired_bytes=1)
    pids = set()
    for _ in range(3):
        began = time.monotonic()
        while not pool.process_ids:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.01)
        pids.update(pool.process_ids)
        assert (await decode(pool, SMALL)).pixels.shape == (336, 448, 3)
    assert len(pids) == 3
    pool.close()


async def test_the_pool_outlives_its_server() -> None:
    pool = DecoderPool(PreprocessSettings(decoders=1))
    await decode(pool, SMALL)
    os.kill(parent_of(pool.process_ids[0]), signal.SIGKILL)
    assert (await decode(pool, SMALL)).pixels.shape == (336, 448, 3)
    pool.close()


async def test_more_waiting_pictures_than_the_limit_are_refused() -> None:
    pool = DecoderPool(PreprocessSettings(decoders=1, max_decode_queue=2))
    calls = [asyncio.create_task(pool.measure(SMALL, LABEL, LIMITS)) for _ in range(5)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, Overloaded) for answer in found] == [False, False, *[True] * 3]
    pool.close()


def test_all_processes_end_with_the_pool() -> None:
    async def use() -> list[int]:
        pool = DecoderPool(PreprocessSettings())
        await decode(pool, SMALL)
        pids = pool.process_ids
        pool.close()
        return pids

    pids = asyncio.run(use())
    assert pids
    deadline = time.monotonic() + 10
    while any(map(exists, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("width", "height"), [(448, 336), (1920, 1080)])
def test_common_pictures_count_as_small(width: int, height: int) -> None:
    header = read_header(encoded(photo(width, height), "JPEG"), LABEL, LIMITS)
    assert decode_cost_s(header, width * height) < SMALL_S
    assert decode_cost_s(read_header(LARGE, LABEL, LIMITS), width * height) > SMALL_S
