import io
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from serve_app.errors import ImageRejected
from serve_app.preprocess import sniff
from serve_app.preprocess.decode import decode_picture, read_header
from serve_app.preprocess.glm4v_grid import Glm4vGrid
from serve_app.preprocess.picture_limits import ImageLabel, PictureLimits
from serve_app.preprocess.resize import picture_digest, resize_picture, simd
from tests.preprocess.conftest import PROCESSOR
from tests.preprocess.pictures import bomb, encoded, hollow, photo

LABEL = ImageLabel(2, "messages[0].content[1]")
LIMITS = PictureLimits(20 * 2**20, 50_000_000, 100)
GRID = Glm4vGrid(shortest_edge=12544, longest_edge=9633792)
MEAN = np.asarray(PROCESSOR["image_mean"], np.float32)
STD = np.asarray(PROCESSOR["image_std"], np.float32)
LEVEL = 1 / 255 / STD.min()  # of 255, in the model's units


def prepared(data: bytes) -> NDArray[np.uint8]:
    header = read_header(data, LABEL, LIMITS)
    image = decode_picture(data, header, LABEL, LIMITS.max_pixels)
    return resize_picture(image, *GRID.size(header.width, header.height))


def pixel_values(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the engine's device does: (height, width, 3) uint8 -> (patches, 3 * 2 * 14 * 14) float32."""
    height, width, _ = pixels.shape
    values = (pixels.astype(np.float32) / 255 - MEAN) / STD
    patches = values.transpose(2, 0, 1).reshape(3, height // 28, 2, 14, width // 28, 2, 14)
    patches = patches.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    patches = np.broadcast_to(patches, (*patches.shape[:5], 2, *patches.shape[6:]))
    return patches.reshape(-1, 3 * 2 * 14 * 14)


def check_equal(data: bytes, expected: Image.Image | None = None) -> None:
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data))) if expected is None else expected
    theirs = Glm46VImageProcessorPil(**{k: v for k, v in PROCESSOR.items() if k != "processor_class"})(images=reference)
    ours = pixel_values(prepared(data))
    assert ours.shape == theirs["pixel_values"].shape
    differences = np.abs(ours - theirs["pixel_values"])
    if simd is None:
        assert differences.max() < 1e-5
    else:  # SIMD rounds its weights: one level of 255 in under 1 % of the values, rarely two
        assert differences.max() < 2.01 * LEVEL
        assert (differences > 1e-5).mean() < 0.01
        assert (differences > 1.01 * LEVEL).mean() < 0.0002


MODES = [
    "RGB",
    "RGBA",
    "P",
    "P+transparency",
    "L",
    "LA",
    "1",
    "CMYK",
    "16-bit",
    "EXIF",
    "GIF",
    "WebP",
    "BMP",
    "TIFF",
    "thin",
]


def make(mode: str, width: int, height: int, seed: int) -> tuple[bytes, Image.Image | None]:
    image = photo(width, height, seed)
    alpha = photo(width, height, seed + 1000).convert("L")
    match mode:
        case "RGBA":
            image.putalpha(alpha)
            return encoded(image), None
        case "P":
            return encoded(image.quantize(64)), None
        case "P+transparency":
            return encoded(image.quantize(64), transparency=bytes(range(0, 256, 4))), None
        case "LA":
            return encoded(Image.merge("LA", (image.convert("L"), alpha))), None
        case "L" | "1":
            return encoded(image.convert(mode)), None
        case "CMYK":
            return encoded(image.convert("CMYK"), "JPEG"), None
        case "16-bit":
            wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
            return encoded(Image.fromarray(wide)), image.convert("L")
        case "EXIF":
            exif = Image.Exif()
            exif[0x0112] = 1 + seed % 8
            return encoded(image, ["JPEG", "PNG", "WebP", "TIFF"][seed // 8 % 4], exif=exif), None
        case "GIF":
            frames = [photo(width, height, seed + n).quantize(32) for n in (1, 2)]
            return encoded(image.quantize(32), "GIF", save_all=True, append_images=frames), None
        case "WebP":
            return encoded(image, "WebP", quality=80), None
        case "BMP" | "TIFF":
            return encoded(image, mode), None
        case "thin":
            return encoded(photo(1, 1 + height % 190, seed) if seed % 2 else photo(1 + width % 190, 1, seed)), None
        case _:
            return encoded(image, "JPEG", quality=85), None


@pytest.mark.parametrize("case", range(60))
def test_pixels_equal_the_familys_own_processor(case: int) -> None:
    rng = np.random.default_rng(case)
    width, height = (int(side) for side in rng.integers(8, 700, 2))
    check_equal(*make(MODES[case % len(MODES)], width, height, case // len(MODES) + case))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP", "TIFF"])
def test_a_rotated_photograph_is_seen_upright(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(300, 90), file_format, exif=exif)
    check_equal(data)
    header = read_header(data, LABEL, LIMITS)
    assert (header.width, header.height) == ((300, 90) if orientation < 5 else (90, 300))


def test_a_picture_larger_than_the_models_input_equals_the_familys_own_processor() -> None:
    check_equal(encoded(photo(3000, 2400), "JPEG"))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"])
def test_the_format_is_read_from_the_first_bytes(file_format: str) -> None:
    data = encoded(photo(40, 30), file_format)
    assert read_header(data, LABEL, LIMITS).format.upper() == file_format.upper()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"hello", "a text. Send it as a text part"),
        ("物流单号".encode(), "a text"),
        (b"hello\xff\n", "not a picture of a known format"),
        (b"hello\0", "not a picture of a known format"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"<svg/>", "an SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- Inkscape -->' + b" " * 600 + b"<svg/>", "an SVG"),
        (b"<!-- Generator --><svg/>", "an SVG"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "a web page"),
        (b'<?xml version="1.0"?><html><svg/></html>', "a web page"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file. Convert it"),
        (b"RIFF\0\0\0\0AVI LIST", "a video file"),
        (b"\xff\x4f\xff\x51\0", "JPEG 2000"),
        (b"iVBORw0KGgoAAAANSUhEUg==", "base64 that was encoded twice. Encode the file once"),
        (b"data:image/jpeg;base64,/9j/4AAQ", "base64 that was encoded twice"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "damaged or incomplete HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video file. Send one frame"),
        (b"PK\x03\x04", "an office document or archive. Save it as PDF"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x89PNG\r\n\x1a\n", "damaged or incomplete PNG"),
        (b"\xff\xd8\xff", "damaged or incomplete JPEG"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(ImageRejected, match=reason) as refused:
        read_header(data, LABEL, LIMITS)
    assert str(refused.value).startswith("Picture 2 ")
    assert refused.value.param == LABEL.param
    if "damaged" not in reason and data:
        assert sniff.ACCEPTED in str(refused.value)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    data = bomb()
    assert len(data) < 200_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageRejected, match=r"Picture 2 is 900 megapixels \(30000 x 30000\); the limit is 50"):
            read_header(data, LABEL, LIMITS)


def test_a_gif_frame_larger_than_its_screen_is_refused() -> None:
    data = bytearray(encoded(photo(8, 8).quantize(4), "GIF"))
    place = data.index(b",\0\0\0\0\x08\0\x08\0")
    data[place + 5 : place + 9] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(ImageRejected, match="limit"):
        read_header(bytes(data), LABEL, LIMITS)


def test_a_webp_that_claims_a_huge_canvas_is_refused() -> None:
    data = bytearray(encoded(photo(64, 64), "WebP", lossless=True, exif=Image.Exif()))
    canvas = (16383 - 1).to_bytes(3, "little")
    data = bytearray(b"RIFF" + struct.pack("<I", len(data) + 10) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4)
    data += canvas + canvas + encoded(photo(64, 64), "WebP", lossless=True)[12:]
    with pytest.raises(ImageRejected):
        read_header(bytes(data), LABEL, LIMITS)


def test_a_file_over_the_size_limit_names_both_sizes() -> None:
    with pytest.raises(ImageRejected, match=r"Picture 2 is 2 MiB; the limit is 1"):
        read_header(b"\xff\xd8\xff" + b"x" * 2**21, LABEL, replace(LIMITS, max_bytes=2**20))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused(file_format: str) -> None:
    data = encoded(photo(200, 160) if file_format != "GIF" else photo(200, 160).quantize(64), file_format)
    data = data[: len(data) // 2]
    with pytest.raises(ImageRejected, match="damaged or incomplete"):
        prepared(data)


def test_a_grey_heic_file_that_declares_more_bits_than_it_has_is_refused_before_it_corrupts_memory() -> None:
    """Found by fuzzing: pi-heif 1.4 writes 16-bit values over pixels of 8 bits."""
    data = bytearray(Path(__file__).with_name("heic").joinpath("L.heic").read_bytes())
    data[data.index(b"hvcC") + 21] = 0xFA  # bits of luma: 8 + 2
    with pytest.raises(ImageRejected, match="grey HEIC file of more than 8 bits"):
        read_header(bytes(data), LABEL, LIMITS)


def test_a_header_without_pixels_is_measured_and_only_its_decoding_fails() -> None:
    data = hollow(640, 480)
    header = read_header(data, LABEL, LIMITS)
    assert (header.width, header.height) == (640, 480)
    with pytest.raises(ImageRejected):
        decode_picture(data, header, LABEL, LIMITS.max_pixels)


def test_32_bit_pixels_are_refused_with_what_to_do() -> None:
    data = encoded(Image.new("F", (40, 40)), "TIFF")
    with pytest.raises(ImageRejected, match="8 or 16 bits"):
        prepared(data)


def test_the_digest_depends_on_size_and_pixels() -> None:
    tall = np.zeros((4, 2, 3), np.uint8)
    assert picture_digest(tall) == picture_digest(tall.copy())
    assert picture_digest(tall) != picture_digest(tall.reshape(2, 4, 3))
    assert picture_digest(tall) != picture_digest(tall + 1)
