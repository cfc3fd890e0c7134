"""Regions in the model's own words: any brackets, kept within the picture, in pixels where it is certain whose."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from serve_app.contracts import Box, Picture
from serve_app.engine.output.boxes import parse_box

PICTURE = Picture(np.zeros((28, 56, 3), dtype=np.uint8), "a", 2, original_size=(2000, 500))


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("[[12,30,400,500]]", [(12, 30, 400, 500)]),
        ("(12, 30, 400, 500)", [(12, 30, 400, 500)]),
        ("<12 30 400 500>", [(12, 30, 400, 500)]),
        ("[[1,2,3,4],[5,6,7,8]]", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("a cat at [1, 2, 3, 4] and a dog at [5, 6, 7, 8]", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]', [(1, 2, 3, 4)]),
        ("【12，30，400，500】", [(12, 30, 400, 500)]),
        ("[12.4, 29.6, 400.0, 500.2]", [(12, 30, 400, 500)]),
        ("[400, 500, 12, 30]", [(12, 30, 400, 500)]),
        ("[-3, 2, 1003, 40]", [(0, 2, 1000, 40)]),
        ("[12, 30]", []),
        ("[1,2,3,4,5]", []),
        ("3 lamps", []),
        ("", []),
    ],
)
def test_regions_are_found_in_whatever_brackets(text: str, regions: list[tuple[int, int, int, int]]) -> None:
    assert [box.thousandths for box in parse_box(text, ()).boxes] == regions


def test_the_only_picture_gives_pixels_of_its_uploaded_size() -> None:
    found = parse_box("[[250, 500, 1000, 999]]", (PICTURE,))
    assert found.boxes == (Box((250, 500, 1000, 999), (500, 250, 2000, 500), 0),)


@pytest.mark.parametrize("pictures", [(), (PICTURE, PICTURE)])
def test_without_or_with_several_pictures_it_is_not_known_whose_region_it_is(pictures: tuple[Picture, ...]) -> None:
    assert parse_box("[1,2,3,4]", pictures).boxes == (Box((1, 2, 3, 4), None, None),)


def test_the_text_is_kept_without_the_space_around_it() -> None:
    assert parse_box("\n[1,2,3,4] \n", ()).text == "[1,2,3,4]"


@given(st.text(alphabet="[]()<> ,.-0123456789\n", max_size=200))
def test_whatever_is_boxed_regions_are_ordered_and_inside(text: str) -> None:
    for box in parse_box(text, (PICTURE,)).boxes:
        left, top, right, bottom = box.thousandths
        assert 0 <= left <= right <= 1000
        assert 0 <= top <= bottom <= 1000
        assert box.pixels is not None
        assert 0 <= box.pixels[0] <= box.pixels[2] <= 2000
        assert 0 <= box.pixels[1] <= box.pixels[3] <= 500


@pytest.mark.parametrize("text", ["[1" + " " * 100_000, "[" * 100_000, "[1,2," + "1" * 100_000, "[1 " * 50_000])
def test_no_text_takes_long_to_search(text: str) -> None:
    assert parse_box(text, ()).boxes == ()
