"""Reasoning: of moderate length, true of the picture, in characters that are one token each."""

import re
from collections import defaultdict
from random import Random

import pytest
from transformers import PreTrainedTokenizerFast

from training import batches, thoughts
from training.scenes import Language, Scene, is_han


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [batches.degraded_scene(job, seed, 0.0) for job in batches.JOBS for seed in range(25)]


def all_thoughts(scenes: list[Scene], language: Language) -> list[tuple[str, Scene, str]]:
    """Kind, scene and reasoning of every fact."""
    rng = Random(1)
    return [
        (fact.kind, scene, think(scene, fact, language, rng))
        for scene in scenes
        for fact in scene.facts
        for think in (thoughts.about, thoughts.place)
    ]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_reasoning_has_a_moderate_length(
    scenes: list[Scene], language: Language, tokenizer: PreTrainedTokenizerFast
) -> None:
    lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for _, _, text in all_thoughts(scenes, language)]
    assert min(lengths) >= 6
    assert max(lengths) <= 80
    assert 10 <= sum(lengths) / len(lengths) <= 40


def test_every_chinese_character_of_the_reasoning_is_one_token(
    scenes: list[Scene], tokenizer: PreTrainedTokenizerFast
) -> None:
    rng = Random(2)
    spoken = [text for _, _, text in all_thoughts(scenes, "zh")] + [thoughts.NO_PICTURE["zh"]]
    spoken += [thoughts.description(scenes[0], "zh"), *(thoughts.missing(scene, "zh") for scene in scenes)]
    spoken += [thoughts.use_tools(["x"], True, "zh", rng) for _ in range(9)]
    spoken += [thoughts.report_results(["x"], "zh", rng) for _ in range(9)]
    characters = {character for text in spoken for character in text if is_han(character)}
    assert {c for c in characters if len(tokenizer.encode(c, add_special_tokens=False)) > 1} == set()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_sums_in_the_reasoning_are_right(scenes: list[Scene], language: Language) -> None:
    sums = defaultdict(int)
    for kind, _, text in all_thoughts(scenes, language):
        for left, right in re.findall(r"([\d.]+(?: [+*] [\d.]+)+) = ([\d.]+\d)", text):
            terms = [float(term) for term in re.findall(r"[\d.]+", left)]
            value = terms[0] * terms[1] if "*" in left else sum(terms)
            assert round(value, 2) == float(right)
            sums[kind] += 1
    assert set(sums) == {"total", "row_amount"}


def test_a_value_begins_as_its_reasoning_says(scenes: list[Scene]) -> None:
    rng = Random(3)
    begun = 0
    for scene in scenes:
        for fact in scene.facts:
            found = re.search(r"begins with (.+)\.$", thoughts.about(scene, fact, "en", rng))
            if found:
                assert fact.zh.startswith(found[1])
                begun += 1
    assert begun > 50


def test_a_value_after_a_title_follows_it_in_the_picture(scenes: list[Scene]) -> None:
    rng = Random(4)
    for scene in scenes:
        for fact in scene.facts:
            found = re.match(r"It stands after (\S+?)\.(?: |$)", thoughts.about(scene, fact, "en", rng))
            if found:
                line = next(line for line in scene.lines if fact.zh in line)
                assert re.search(re.escape(found[1]) + r":? " + re.escape(fact.zh), line)


def test_reasoning_about_a_board_names_its_bad_joint_or_says_that_there_is_none(scenes: list[Scene]) -> None:
    for scene in scenes:
        found = {fact.kind: fact for fact in scene.facts}
        if scene.job == "boards":
            thought = thoughts.about(scene, found["defect_exists"], "zh", Random(5))
            assert found["defect_place"].zh in thought if "defect_place" in found else "每个都" in thought


def test_reasoning_in_english_has_chinese_only_from_the_picture(scenes: list[Scene]) -> None:
    for _, scene, text in all_thoughts(scenes, "en"):
        written = "".join(scene.lines)
        assert {character for character in text if is_han(character)} <= set(written)
