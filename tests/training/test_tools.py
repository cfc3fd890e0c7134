"""Tools: definitions have OpenAI's format, calls fit them and the picture, a report contains its result."""

import json
from collections.abc import Iterator
from random import Random

import jsonschema
import pytest
from transformers import PreTrainedTokenizerFast

from training import batches, tools
from training.scenes import Scene
from training.skills import SKILLS


@pytest.fixture(scope="module")
def scenes() -> list[Scene | None]:
    return [None, *(batches.degraded_scene(job, seed, 0.0) for job in batches.JOBS for seed in range(20))]


def requests(scenes: list[Scene | None]) -> Iterator[tuple[Scene | None, tools.Request]]:
    for number, scene in enumerate(scenes):
        for language in ("zh", "en"):
            rng = Random(f"{number} {language}")
            for _ in range(6):
                for tool in tools.fitting(tools.offer(scene, 3, language, rng), scene):
                    yield scene, tools.request(tool, scene, language, rng)


def test_a_caller_has_the_given_number_of_tools_and_one_fits_the_picture(scenes: list[Scene | None]) -> None:
    for seed in range(60):
        for count in (1, 2, 3):
            offered = tools.offer(scenes[seed % len(scenes)], count, "en", Random(seed))
            assert len({tool.name for tool in offered}) == count
            assert tools.fitting(offered, scenes[seed % len(scenes)])


def test_arguments_satisfy_the_schema_that_the_definition_gives(scenes: list[Scene | None]) -> None:
    for _, request in requests(scenes):
        schema = request.tool.definition["function"]["parameters"]
        jsonschema.Draft202012Validator.check_schema(schema)
        if request.call:
            jsonschema.validate(request.call.arguments, schema)
            assert set(request.call.arguments) <= set(schema["properties"])


def test_every_skill_is_requested_and_called(scenes: list[Scene | None]) -> None:
    called = [request.tool.skill for _, request in requests(scenes) if request.call]
    assert [skill for skills in SKILLS.values() for skill in skills if skill not in called] == []


def test_text_arguments_are_in_the_picture_or_in_the_question(scenes: list[Scene | None]) -> None:
    for scene, request in requests(scenes):
        facts = "".join(fact.zh + fact.en for fact in scene.facts) if scene else ""
        for value in request.call.arguments.values() if request.call else ():
            assert not isinstance(value, str) or value in facts + request.wording


def test_only_a_missing_defect_cannot_be_reported(scenes: list[Scene | None]) -> None:
    without = [scene for scene, request in requests(scenes) if request.call is None]
    assert without
    assert all(scene and "defect_place" not in {fact.kind for fact in scene.facts} for scene in without)


def test_a_report_contains_the_fact_of_its_result(scenes: list[Scene | None]) -> None:
    for _, request in requests(scenes):
        assert request.fact in request.result
        assert request.fact in request.report


def test_a_call_has_strings_without_quotes_and_other_values_as_json() -> None:
    call = tools.Call("book", {"number": "12", "total": 12.5, "rows": 3, "paid": True})
    assert str(call) == (
        "<tool_call>book\n"
        "<arg_key>number</arg_key>\n<arg_value>12</arg_value>\n"
        "<arg_key>total</arg_key>\n<arg_value>12.5</arg_value>\n"
        "<arg_key>rows</arg_key>\n<arg_value>3</arg_value>\n"
        "<arg_key>paid</arg_key>\n<arg_value>true</arg_value>\n"
        "</tool_call>"
    )
    assert str(tools.Call("now", {})) == "<tool_call>now\n</tool_call>"


def test_definitions_survive_json(scenes: list[Scene | None]) -> None:
    for seed in range(40):
        for tool in tools.offer(scenes[seed], 3, "zh", Random(seed)):
            assert json.loads(json.dumps(tool.definition)) == tool.definition


def test_a_definition_is_short_enough_for_a_row(scenes: list[Scene | None], tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(40):
        for tool in tools.offer(scenes[seed], 3, "en", Random(seed)):
            assert len(tokenizer.encode(json.dumps(tool.definition, ensure_ascii=False))) < 400
