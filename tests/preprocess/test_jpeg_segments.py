"""JPEG files as phones and editors make them: appended videos, broken side segments, and scans that are hidden."""

import struct

import numpy as np
import pytest
from PIL import Image

from serve_app.errors import ImageRejected
from serve_app.preprocess.decode import decode_picture, read_header
from serve_app.preprocess.jpeg_segments import count_scans, keep_pixel_segments
from tests.preprocess.decoders import LABEL, LIMITS
from tests.preprocess.hostile import jpeg_of_scans
from tests.preprocess.pictures import encoded, photo

PICTURE = photo(160, 120)
JPEG = encoded(PICTURE, "JPEG")
PIXELS = keep_pixel_segments(JPEG)
NOISE = np.random.default_rng(0).bytes


def decoded(data: bytes) -> Image.Image:
    return decode_picture(data, read_header(data, LABEL, LIMITS), LABEL, LIMITS.max_pixels)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(*made: bytes) -> bytes:
    return JPEG[:2] + b"".join(made) + JPEG[2:]


def test_a_photograph_with_an_appended_video_has_the_scans_of_the_photograph() -> None:
    data = JPEG + b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 200 + NOISE(1_000_000)
    assert read_header(data, LABEL, LIMITS).scans == 1
    assert decoded(data).tobytes() == decoded(JPEG).tobytes()


def test_profiles_and_previews_in_a_jpeg_are_no_scans() -> None:
    data = with_segments(*(segment(0xE2, b"\xff\xda" * 30_000) for _ in range(20)))
    assert read_header(data, LABEL, LIMITS).scans == 1
    assert decoded(data).tobytes() == decoded(JPEG).tobytes()


@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE])
@pytest.mark.parametrize(
    "content",
    [b"", b"JFIF", b"JFIF\0\1", b"ICC_PROFILE\0", b"ICC_PROFILE\0\1", b"Adobe", b"Adobe\0", b"Exif\0\0", b"MPF\0II"],
)
def test_a_broken_side_segment_of_a_jpeg_is_ignored(marker: int, content: bytes) -> None:
    assert decoded(with_segments(segment(marker, content))).tobytes() == decoded(JPEG).tobytes()


def test_colours_and_rotation_of_a_jpeg_are_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(PICTURE.convert("CMYK"), "JPEG", exif=exif, comment=b"a comment", icc_profile=NOISE(200_000))
    kept = keep_pixel_segments(turned)
    assert len(kept) < len(turned) - 200_000
    assert decoded(kept).size == (120, 160)
    assert decoded(kept).tobytes() == decoded(turned).tobytes()
    assert np.abs(np.asarray(decoded(turned)).mean() - np.asarray(PICTURE).mean()) < 2


@pytest.mark.parametrize("hidden_by", [b"\xff\xd9", b"\xff\xd9\xff\xd9\0\0"])
def test_scans_behind_a_false_end_mark_are_counted(hidden_by: bytes) -> None:
    data = jpeg_of_scans(50, 64, 64)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    assert count_scans(data[:second] + segment(0xFE, hidden_by) + data[second:]) == count_scans(data) > 49


@pytest.mark.parametrize("cut", range(len(PIXELS) - 1, 1, -197))
def test_a_jpeg_that_is_cut_off_anywhere_has_countable_scans(cut: int) -> None:
    assert count_scans(JPEG[:cut]) == 1
    assert keep_pixel_segments(PIXELS[:cut]) == PIXELS[:cut]


def test_scans_behind_a_marker_that_libjpeg_steps_over_are_counted() -> None:
    """With a restart interval libjpeg decodes them: a reserved marker has no length there."""
    progressive = encoded(PICTURE, "JPEG", progressive=True)
    place = progressive.index(b"\xff\xda")
    scan = progressive[place : place + 4 + progressive[place + 3] - 2]
    hidden = b"\xff\x02\xff\xff" + scan * 201
    data = progressive[:place] + segment(0xDD, b"\0\1") + scan + b"\0\0" + hidden + b"\xff\xd9"
    assert count_scans(data) > 200


def test_a_jpeg_of_very_many_segments_is_refused() -> None:
    with pytest.raises(ImageRejected, match="damaged or incomplete JPEG"):
        read_header(with_segments(segment(0xFE, b"") * 100_000), LABEL, LIMITS)


def test_a_lossless_jpeg_that_pillow_decodes_is_read() -> None:
    """Scanners write them; all differences of this one are 0, so it is grey."""
    frame = segment(0xC3, struct.pack(">BHHBBBB", 8, 8, 8, 1, 1, 0x11, 0))
    codes = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
    data = b"\xff\xd8" + frame + codes + segment(0xDA, bytes([1, 1, 0, 1, 0, 0])) + bytes(8) + b"\xff\xd9"
    assert np.asarray(decoded(data)).tolist() == [[128] * 8] * 8
