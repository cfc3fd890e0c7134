import json
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.errors import InvalidRequest
from serve_app.preprocess.chat_template import ChatTemplate, TemplateFeatures, holds_in_order
from serve_app.preprocess.chat_tokenizer import ChatTokenizer
from serve_app.preprocess.thinking import ThinkingAbility
from serve_app.settings import DEMO_MODEL
from tests.preprocess.conftest import ADDED, GLM45V_TEMPLATE, TOOL_MARKS, WriteCheckpoint

PICTURE = "<|begin_of_image|><|image|><|end_of_image|>"


def as_it_is(data: object) -> object:
    return data


@pytest.mark.parametrize(
    ("name", "traits"),
    [
        ("plain", TemplateFeatures(False, True, False, False)),
        ("glm-4.1v", TemplateFeatures(False, False, False, False)),
        ("glm-4.5v", TemplateFeatures(True, False, True, True)),
        ("glm-4.6v", TemplateFeatures(True, True, True, True)),
    ],
)
def test_what_a_template_can_express_is_found_out(
    of_template: Callable[[str], Path], name: str, traits: TemplateFeatures
) -> None:
    assert ChatTemplate(of_template(name)).find_features(as_it_is, PICTURE) == traits


@pytest.mark.parametrize(
    ("name", "abilities", "thinking"),
    [
        ("plain", {"boxes"}, ThinkingAbility()),
        ("glm-4.1v", {"thinking", "thinking_budget"}, ThinkingAbility(always=True, budget=True)),
        (
            "glm-4.5v",
            {"thinking", "thinking_switch", "thinking_budget", "tools", "tool_images", "boxes"},
            ThinkingAbility(switch=True, default=True, budget=True),
        ),
        (
            "glm-4.6v",
            {"thinking", "thinking_switch", "thinking_budget", "tools", "tool_images", "boxes"},
            ThinkingAbility(switch=True, default=True, budget=True),
        ),
    ],
)
def test_a_models_abilities_follow_from_template_and_tokenizer(
    of_template: Callable[[str], Path], name: str, abilities: set[str], thinking: ThinkingAbility
) -> None:
    chat = ChatTokenizer(of_template(name), image_token_of(of_template(name)))
    assert (chat.abilities, chat.thinking) == (abilities, thinking)


def test_the_demo_model_can_be_told_tools_and_thinks_when_told_to() -> None:
    chat = ChatTokenizer(DEMO_MODEL, 1819)
    assert chat.abilities == {"thinking", "thinking_switch", "thinking_budget", "tools", "tool_images", "boxes"}
    assert chat.thinking == ThinkingAbility(switch=True, budget=True)


def test_without_the_marks_of_calls_a_model_has_no_tools(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(GLM45V_TEMPLATE, [token for token in ADDED if token not in TOOL_MARKS])
    assert not ChatTokenizer(folder, image_token_of(folder)).abilities & {"tools", "tool_images"}


def test_without_an_end_mark_thinking_has_no_budget(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(GLM45V_TEMPLATE, [token for token in ADDED if token != "</think>"])
    found = ChatTokenizer(folder, image_token_of(folder)).abilities
    assert found >= {"thinking", "thinking_switch"}
    assert "thinking_budget" not in found


def test_a_template_that_spells_out_what_it_is_given_has_no_tools(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(GLM45V_TEMPLATE.replace("ensure_ascii=False", "ensure_ascii=True"))
    assert "tools" not in ChatTokenizer(folder, image_token_of(folder)).abilities


def test_a_switch_may_be_off_by_default(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(GLM45V_TEMPLATE.replace("enable_thinking is defined and not", "not"))
    thinking = ChatTokenizer(folder, image_token_of(folder)).thinking
    assert thinking == ThinkingAbility(switch=True, default=False, budget=True)


def test_what_a_template_refuses_is_the_callers_mistake(write_checkpoint: WriteCheckpoint) -> None:
    template = ChatTemplate(write_checkpoint("{{ raise_exception('no ' + messages[0].content) }}"))
    with pytest.raises(InvalidRequest, match="refuses this conversation: no \ufffd") as refused:
        template.render([{"role": "user", "content": "\udc00"}])  # escaped, and an error cannot contain it
    assert refused.value.param == "messages"


def test_a_folder_without_a_template_is_refused(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InvalidRequest, match="has no chat template"):
        ChatTemplate(folder)


def test_order_is_checked_with_ends_stripped() -> None:
    assert holds_in_order("ab c", [" a", "b\n", "", "c"])
    assert not holds_in_order("ab c", ["b", "a"])


def image_token_of(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["image_token_id"])
