import numpy as np
import pytest
from PIL import Image

from serve_app.preprocess.resize import bicubic, simd

SIZES = [
    ((1920, 1080), (1932, 1092)),
    ((640, 480), (644, 476)),  # wider and lower: Pillow turns its passes round
    ((200, 900), (196, 504)),  # much lower: likewise
    ((900, 200), (504, 196)),
    ((37, 21), (140, 84)),
    ((1, 150), (28, 4200)),
    ((280, 100), (280, 112)),  # one pass
    ((100, 280), (112, 280)),
    ((56, 84), (56, 84)),  # none
]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_noise_is_resized_as_by_pillow(mode: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    expected = np.asarray(image.resize(wanted, Image.Resampling.BICUBIC)).astype(int)
    differences = np.abs(bicubic(image, *wanted).astype(int) - expected)
    assert differences.max() <= (0 if simd is None else 2)
    assert (differences > 0).mean() < 0.01


def test_the_pixels_are_contiguous_and_nobody_can_change_them() -> None:
    pixels = bicubic(Image.new("RGB", (50, 40)), 56, 28)
    assert pixels.shape == (28, 56, 3)
    assert pixels.flags.c_contiguous
    assert not pixels.flags.writeable
