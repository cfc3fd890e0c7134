"""Validation during training: greedy answers equal generate()'s, and only correct ones count."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from training import exams
from training.architecture import Reader, create_model, model_config
from training.batches import degraded_scene


@pytest.fixture(scope="module")
def micro(tokenizer: PreTrainedTokenizerFast) -> Reader:
    torch.manual_seed(0)
    return Reader(create_model(model_config(tokenizer, "micro")).eval())


@pytest.fixture(scope="module")
def boards(tokenizer: PreTrainedTokenizerFast) -> exams.Abilities:
    return exams.abilities_exam("boards", 4, tokenizer)


@torch.no_grad()
def test_a_generated_answer_equals_that_of_generate(
    micro: Reader, boards: exams.Abilities, tokenizer: PreTrainedTokenizerFast
) -> None:
    exam = replace(boards.free["pointing"], longest=5)
    answers = exams.answer(micro, exam, tokenizer)
    features = micro.see(exam.batch["images"])[0]
    for row, start in enumerate(exam.starts.tolist()):
        ids = exam.batch["ids"][row : row + 1, :start]
        for _ in range(exam.longest):
            places = exam.batch["positions"][:, row : row + 1, : ids.shape[1]]
            logits = micro.model.lm_head(micro.read(features[row : row + 1], ids, places)[:, -1])
            logits[:, micro.image_token] = -torch.inf
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
        assert answers[row] == tokenizer.decode(ids[0, start:])


def test_prompts_for_thinking_open_the_reasoning_and_those_for_pointing_do_not(
    boards: exams.Abilities, tokenizer: PreTrainedTokenizerFast
) -> None:
    for ability, end in (("thinking", "<|assistant|>\n<think>\n"), ("pointing", "<|assistant|>\n")):
        exam = boards.free[ability]
        for row, start in enumerate(exam.starts.tolist()):
            assert str(tokenizer.decode(exam.batch["ids"][row, :start])).endswith(end)


def test_a_correct_result_needs_reasoning_and_the_right_answer(boards: exams.Abilities) -> None:
    for row, correct in enumerate(boards.free["thinking"].correct):
        facts = degraded_scene("boards", exams.ABILITIES_FROM + row, 1.0).facts
        answers = {answer for fact in facts for answer in (fact.zh, fact.en)}
        assert sum(correct(f"I look.</think>\n{answer}<|user|>") for answer in answers) == 1
        assert not any(correct(f"</think>\n{answer}<|user|>") for answer in answers)
        assert not any(correct(f"{answer}<|user|>") for answer in answers)
        assert not any(correct(f"I look.</think>\n{answer}") for answer in answers)


def test_a_box_counts_if_it_overlaps_by_half_and_is_between_box_tokens(boards: exams.Abilities) -> None:
    correct = boards.free["pointing"].correct[0]
    boxes = [(x, y, x + 90, y + 90) for x in range(0, 910, 30) for y in range(0, 910, 30)]
    hits = [box for box in boxes if correct(f"<|begin_of_box|>[[{','.join(map(str, box))}]]<|end_of_box|><|user|>")]
    assert len(hits) < len(boxes) // 10
    assert not correct("<|user|>")
    assert not any(correct(f"[[{','.join(map(str, box))}]]<|user|>") for box in boxes)


def test_both_kinds_with_tools_have_the_given_number_of_questions(boards: exams.Abilities, micro: Reader) -> None:
    kinds = [kind for kind, _ in exams.judge(micro, boards.fixed)]
    assert set(kinds) == {"tools", "results"}
    assert len(kinds) == 8


def test_a_share_is_correct_answers_divided_by_all() -> None:
    assert exams.shares([("a", True), ("a", False), ("b", True)]) == {"a": 0.5, "b": 1.0}
