"""The drawings: a seed always gives the same picture, and every answer is in the picture."""

from random import Random

import pytest

from training import batches, phrases
from training.scenes import Scene

SEEDS = range(40)


def scenes(job: str) -> list[Scene]:
    return [batches.draw(job, Random(seed)) for seed in SEEDS]


def answers(scene: Scene) -> dict[str, str]:
    return {fact.kind: fact.zh for fact in scene.facts}


@pytest.mark.parametrize("job", batches.JOBS)
def test_a_seed_always_draws_the_same_picture(job: str) -> None:
    first, second = (batches.degraded_scene(job, 5, 1.0) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.facts == second.facts


@pytest.mark.parametrize("job", batches.JOBS)
def test_another_seed_draws_another_picture(job: str) -> None:
    assert batches.degraded_scene(job, 5, 1.0).image.tobytes() != batches.degraded_scene(job, 6, 1.0).image.tobytes()


@pytest.mark.parametrize("job", batches.JOBS)
def test_pictures_fit_the_grid_so_that_serving_does_not_scale_them(job: str) -> None:
    for scene in scenes(job):
        assert (scene.image.width % 28, scene.image.height % 28) == (0, 0)


@pytest.mark.parametrize(
    ("job", "kinds"),
    [
        ("labels", {"tracking", "recipient", "phone", "carrier", "sender", "model", "device", "light"}),
        ("boards", {"board_number"}),
        (
            "documents",
            {"number", "date", "party", "total", "stamp", "title", "row_amount", "row_quantity", "row_price"},
        ),
    ],
)
def test_every_expected_answer_is_written_in_the_picture(job: str, kinds: set[str]) -> None:
    for scene in scenes(job):
        text = "\n".join(scene.lines)
        for fact in scene.facts:
            if fact.kind in kinds:
                assert fact.zh in text


def test_an_address_consists_of_its_two_written_lines() -> None:
    for scene in scenes("labels"):
        address = answers(scene).get("address", "")
        text = "".join(scene.lines).replace(" ", "")
        assert address.replace(" ", "") in text


def test_the_sums_of_a_table_are_right() -> None:
    for scene in scenes("documents"):
        quantities = [int(f.zh) for f in scene.facts if f.kind == "row_quantity"]
        prices = [float(f.zh) for f in scene.facts if f.kind == "row_price"]
        amounts = [float(f.zh) for f in scene.facts if f.kind == "row_amount"]
        assert [round(q * p, 2) for q, p in zip(quantities, prices, strict=True)] == amounts
        assert round(sum(amounts), 2) == float(answers(scene)["total"])


def test_a_board_has_its_bad_joint_inside_the_grid() -> None:
    boards = [answers(scene) for scene in scenes("boards")]
    bad = [board for board in boards if board["defect_exists"] == "不合格"]
    assert 0 < len(bad) < len(boards)
    for board in bad:
        row, column = _first_two(board["defect_place"])
        assert 1 <= row <= int(board["rows"])
        assert 1 <= column <= int(board["columns"])


def test_lights_of_one_panel_differ_in_colour_and_meaning() -> None:
    for scene in scenes("labels"):
        lights = [fact for fact in scene.facts if fact.kind == "light"]
        assert len({fact.slots_en["color"] for fact in lights}) == len({fact.zh for fact in lights}) == len(lights)


def test_every_fact_can_be_asked_in_both_languages() -> None:
    for job in batches.JOBS:
        for fact in scenes(job)[0].facts:
            for language in ("zh", "en"):
                question, answer = phrases.ask(fact, language, Random(0))
                assert question
                assert answer
                assert "{" not in question


def _first_two(place: str) -> tuple[int, int]:
    digits = [int(character) for character in place if character.isdigit()]
    return digits[0], digits[1]
