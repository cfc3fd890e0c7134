"""Pointing: boxes enclose their objects and move with the picture."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import batches, pointing
from training.panels import LIGHTS, draw_panel
from training.scenes import Fact, Scene

SEEDS = range(30)
SIDE = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(sorted)
BOX = st.tuples(SIDE, SIDE).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))


def facts(scene: Scene) -> dict[str, Fact]:
    return {fact.kind: fact for fact in scene.facts}


def region(scene: Scene, fact: Fact) -> pointing.Region:
    found = pointing.region(scene, fact)
    assert found
    return found


@pytest.mark.parametrize("job", batches.JOBS)
def test_boxes_lie_in_the_picture_and_have_a_size(job: str) -> None:
    for seed in SEEDS:
        scene = batches.degraded_scene(job, seed, 1.0)
        for fact in pointing.pointable(scene):
            found = pointing.region(scene, fact)
            if found:
                assert 0 <= found[0] < found[2] <= 1000
                assert 0 <= found[1] < found[3] <= 1000


@pytest.mark.parametrize(
    ("job", "kinds"),
    [
        ("labels", {"tracking", "phone", "address", "model", "light"}),
        ("boards", {"board_number", "defect"}),
        ("documents", {"number", "date", "party", "total", "title"}),
    ],
)
def test_the_main_kinds_of_facts_have_a_place(job: str, kinds: set[str]) -> None:
    for seed in SEEDS:
        scene = batches.draw(job, Random(seed))
        asked = kinds & set(facts(scene))
        assert asked <= {fact.kind for fact in pointing.pointable(scene)}


def test_a_light_has_its_colour_in_its_box() -> None:
    colors = {en: color for (_, en), color in LIGHTS.items()}
    for seed in SEEDS:
        scene = draw_panel(Random(seed))
        pixels, (width, height) = np.asarray(scene.image), scene.image.size
        for fact in scene.facts:
            if fact.kind == "light":
                left, top, right, bottom = region(scene, fact)
                middle = pixels[(top + 3 * bottom) * height // 4000, (left + right) * width // 2000]
                assert np.abs(middle - np.array(colors[fact.slots_en["color"]])).max() <= 25


def test_the_box_of_a_title_contains_its_ink_and_only_paper_is_around_it() -> None:
    for seed in SEEDS:
        scene = batches.draw("documents", Random(seed))
        pixels, (width, height) = np.asarray(scene.image.convert("L"), int), scene.image.size
        left, top, right, bottom = region(scene, facts(scene)["title"])
        columns = slice(left * width // 1000, right * width // 1000)
        inside = pixels[top * height // 1000 : bottom * height // 1000, columns]
        above = pixels[: top * height // 1000 - 1]
        assert np.ptp(inside) > 80
        assert np.ptp(above) < 10


def test_a_bridge_is_as_wide_as_two_joints() -> None:
    wide = []
    for seed in range(80):
        found = facts(scene := batches.draw("boards", Random(seed)))
        if found["defect"].zh.endswith("桥接"):
            left, top, right, bottom = region(scene, found["defect"])
            wide.append((right - left) / (bottom - top))
    assert wide
    assert all(2 < ratio < 3 for ratio in wide)


@pytest.mark.parametrize("job", batches.JOBS)
def test_a_box_in_thousandths_does_not_change_when_the_picture_is_scaled(job: str) -> None:
    scene = batches.degraded_scene(job, 3, 1.0)
    before = [region(scene, fact) for fact in scene.facts if pointing.region(scene, fact)]
    batches.resize(scene, 15, 11)
    after = [region(scene, fact) for fact in scene.facts if pointing.region(scene, fact)]
    assert np.abs(np.array(before) - np.array(after)).max() <= 1


def test_text_that_occurs_twice_has_no_place() -> None:
    scene = batches.draw("documents", Random(1))
    title = facts(scene)["title"]
    assert pointing.region(scene, title)
    scene.glyphs += scene.glyphs[: len(title.zh)]
    assert pointing.region(scene, title) is None


def test_the_answer_says_that_a_missing_object_is_not_there() -> None:
    for seed in range(60):
        scene = batches.draw("boards", Random(seed))
        defect = facts(scene)["defect"]
        question, answer = pointing.ask(scene, defect, "en", Random(seed), plain=True)
        assert "{" not in question
        assert (pointing.pointed(answer) is None) == (answer == "no defect")


@given(BOX)
def test_a_formatted_box_is_parsed_back_with_its_precision(box: pointing.Region) -> None:
    found = pointing.pointed("here: " + pointing.written(box))
    assert found
    assert all(abs(read - meant) <= pointing.STEP / 2 for read, meant in zip(found, box, strict=True))


@given(BOX, BOX)
def test_overlap_is_between_0_and_1_and_symmetric(one: pointing.Region, other: pointing.Region) -> None:
    assert 0 <= pointing.overlap(one, other) <= 1
    assert pointing.overlap(one, other) == pointing.overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
    ],
)
def test_overlap_is_intersection_over_union(one: pointing.Region, other: pointing.Region, share: float) -> None:
    assert pointing.overlap(one, other) == pytest.approx(share)
