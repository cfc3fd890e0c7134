"""Tokenizer, template and picture settings: of one revision with the config, or shown what is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.doctor.report import Finding, Status, guarded
from serve_app.doctor.tokenizer_check import check_conversation, check_ids
from serve_app.settings import Settings
from tests.doctor.conftest import change, named, the_one

STOP = frozenset([1785, 1792, 1794])


def ids_of(folder: Path, vocab_size: int = 1856, stop_ids: frozenset[int] = STOP) -> list[Finding]:
    config = json.loads((folder / "config.json").read_text())
    return guarded("ids", lambda: check_ids(folder, config, vocab_size, stop_ids))


def conversation_of(folder: Path) -> list[Finding]:
    return list(check_conversation(folder, Settings()))


def released(image_token_id: int, theta: float, positions: int) -> dict[str, Any]:
    return {
        "image_token_id": image_token_id,
        "text_config": {"rope_parameters": {"rope_theta": theta}, "max_position_embeddings": positions},
    }


def test_a_config_and_a_tokenizer_of_one_model_agree(demo: Path):
    findings = ids_of(demo)
    assert {finding.status for finding in findings} == {Status.OK}
    assert named(findings, "end of answers").seen == "<|endoftext|>, <|user|>, <|observation|>"


def test_an_image_token_that_the_tokenizer_has_elsewhere_ends_the_check(demo: Path):
    change(demo / "config.json", lambda config: config.update(image_token_id=151343))
    finding = the_one(ids_of(demo))
    assert finding.status == Status.PROBLEM
    assert finding.seen.startswith("image_token_id is 151343, the tokenizer's <|image|> is 1819:")


def test_several_differing_ids_are_counted_and_one_is_shown(demo: Path):
    change(demo / "config.json", lambda config: config.update(image_token_id=7, image_end_token_id=8))
    assert "(and 1 more)" in the_one(ids_of(demo)).seen


def test_a_tokenizer_with_more_ids_than_the_model_is_of_another_model(demo: Path):
    assert "<|video|> is 1820, the model has 1,820 ids" in the_one(ids_of(demo, vocab_size=1820)).seen


def test_a_model_without_end_tokens_never_ends_its_answers(demo: Path):
    finding = named(ids_of(demo, stop_ids=frozenset()), "end of answers")
    assert finding.status == Status.WARNING
    assert "end only at max_tokens" in finding.seen


def test_an_end_token_that_is_an_ordinary_token_is_reported(demo: Path):
    finding = named(ids_of(demo, stop_ids=frozenset([1785, 42])), "end of answers")
    assert finding.status == Status.WARNING
    assert "eos_token_id 42 is an ordinary token" in finding.seen


def test_without_any_tokenizer_file_there_is_nothing_to_compare(tmp_path: Path):
    assert list(check_ids(tmp_path, {"image_token_id": 1}, 10, STOP)) == []


def test_a_tokenizer_that_can_not_be_read_ends_the_check(demo: Path):
    (demo / "tokenizer.json").write_text("{")
    assert the_one(ids_of(demo)).seen.startswith("tokenizer.json can't be read: ")


def test_the_original_9bs_ids_are_those_of_its_tokenizer_config(tmp_path: Path):
    markers = {"151339": {"content": "<|begin_of_image|>"}, "151340": {"content": "<|end_of_image|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": markers}))
    config = {"boi_token_id": 151339, "eoi_token_id": 151340}
    assert named(check_ids(tmp_path, config, 151_552, frozenset([151339])), "ids").status == Status.OK
    found = guarded("ids", lambda: check_ids(tmp_path, {**config, "boi_token_id": 151_343}, 151_552, frozenset()))
    assert "boi_token_id is 151343, the tokenizer's <|begin_of_image|> is 151339" in found[0].seen


@pytest.mark.parametrize(
    ("config", "status"),
    [
        (released(151343, 10_000, 65_536), Status.OK),
        (released(151363, 500_000, 131_072), Status.OK),
        (released(151363, 10_000, 131_072), Status.WARNING),
        (released(151343, 10_000, 131_072), Status.WARNING),
        (released(151363, 1_000_000, 131_072), Status.OK),  # somebody's own fine-tune, not a mixture
        (released(1819, 100, 8192), Status.OK),
        (
            {"image_token_id": 151343, "text_config": {"rope_theta": 500_000}},
            Status.WARNING,
        ),  # as transformers 4 has it
    ],
)
def test_a_config_with_fields_of_two_releases_is_doubted(tmp_path: Path, config: dict[str, Any], status: Status):
    added = [{"content": "<|image|>", "id": config["image_token_id"]}, {"content": "<|user|>", "id": 5}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert named(check_ids(tmp_path, config, 151_552, frozenset([5])), "ids").status == status


def test_a_template_that_fits_lists_the_abilities_of_the_model(demo: Path):
    findings = conversation_of(demo)
    assert {finding.status for finding in findings} == {Status.OK}
    assert "vision" in named(findings, "abilities").seen
    assert named(findings, "pictures").seen == "a photo of 4000x3000 is resized to 588x448 and has 336 tokens"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}",
        "<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content if m.content is string else '' }}{% endfor %}",
    ],
    ids=["another model's", "one that drops pictures"],
)
def test_a_foreign_template_is_refused(demo: Path, template: str):
    (demo / "chat_template.jinja").write_text(template)
    finding = the_one(conversation_of(demo))
    assert finding.status == Status.PROBLEM
    assert "chat template" in finding.seen


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(demo: Path, name: str):
    (demo / name).unlink()
    what = "chat template" if name == "chat_template.jinja" else name
    finding = the_one(conversation_of(demo))
    assert finding.status == Status.PROBLEM
    assert what in finding.seen


def test_a_processor_without_a_limit_of_its_own_is_a_warning(demo: Path):
    change(demo / "preprocessor_config.json", lambda processor: processor.pop("size"))
    first, second = (finding for finding in conversation_of(demo) if finding.name == "pictures")
    assert first.status == Status.WARNING
    assert "no size.longest_edge" in first.seen
    assert second.status == Status.OK
