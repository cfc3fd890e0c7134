import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.glm46v.image_processing_pil_glm46v import smart_resize as theirs

from serve_app.errors import InvalidRequest
from serve_app.preprocess.glm4v import expand_placeholders
from serve_app.preprocess.glm4v_grid import AspectRatioTooLarge, Glm4vGrid, smart_resize
from tests.preprocess.conftest import PROCESSOR, WriteCheckpoint

GRID = Glm4vGrid(shortest_edge=12544, longest_edge=9633792)
SIDE = st.integers(1, 12_000)


@settings(max_examples=2000, deadline=None)
@given(SIDE, SIDE)
def test_sizes_equal_the_familys_own(width: int, height: int) -> None:
    try:
        expected = theirs(2, height, width, 2, 28, 12544, 9633792)
    except ValueError:
        with pytest.raises(AspectRatioTooLarge):
            smart_resize(height, width, 28, 2, 12544, 9633792)
        return
    assert smart_resize(height, width, 28, 2, 12544, 9633792) == expected
    processor = Glm46VImageProcessorPil(size=PROCESSOR["size"])
    assert GRID.tokens(*GRID.size(width, height)) * 4 == processor.get_number_of_image_patches(height, width)


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((640, 480), 391),
        ((1280, 720), 1196),
        ((1120, 1120), 1600),
        ((1920, 1080), 2691),
        ((4000, 3000), 6030),
        ((4096, 4096), 6084),
        ((112, 112), 16),
        ((1, 1), 9),
    ],
)
def test_known_pictures_cost_what_is_known(size: tuple[int, int], tokens: int) -> None:
    assert GRID.tokens(*GRID.size(*size)) == tokens


@settings(max_examples=500, deadline=None)
@given(SIDE, SIDE, st.integers(64, 6144))
def test_a_cap_on_tokens_holds(width: int, height: int, most: int) -> None:
    if max(width, height) > 20 * min(width, height):
        return  # one token wide, the family rounds up to a whole token
    seen = GRID.size(width, height, most)
    assert GRID.tokens(*seen) <= most
    assert seen[0] % 28 == seen[1] % 28 == 0


def test_placeholders_are_repeated_in_order() -> None:
    token_ids = np.asarray([5, 9, 6, 9, 7], np.int32)
    assert expand_placeholders(token_ids, 9, [3, 1]).tolist() == [5, 9, 9, 9, 6, 9, 7]
    assert expand_placeholders(token_ids[:1], 9, []).tolist() == [5]


def test_the_grid_is_read_from_either_processor_file(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint()
    assert Glm4vGrid.of_checkpoint(folder) == GRID
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR}))
    assert Glm4vGrid.of_checkpoint(folder) == GRID


def test_what_a_checkpoint_does_not_say_is_the_processors_default(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{}")
    default = Glm46VImageProcessorPil()
    grid = Glm4vGrid.of_checkpoint(tmp_path)
    assert (grid.shortest_edge, grid.longest_edge) == (default.size["shortest_edge"], default.size["longest_edge"])
    assert (grid.patch_size, grid.merge_size, grid.temporal_patch_size) == (14, 2, 2)


@pytest.mark.parametrize("settings_", [None, {"size": {"height": 336, "width": 336}}])
def test_a_folder_without_the_familys_sizes_is_refused(tmp_path: Path, settings_: object) -> None:
    if settings_ is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings_))
    with pytest.raises(InvalidRequest):
        Glm4vGrid.of_checkpoint(tmp_path)
