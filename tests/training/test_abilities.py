"""Conversations with reasoning, boxes and tool calls equal the rendered template; the loss is on answers only."""

from random import Random
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from training import batches, tools
from training.abilities import Task, point, think, use_tools
from training.conversations import Conversation, Turn, Writer, converse, sizes
from training.scenes import Scene

SORTS = (converse, think, point, use_tools)


@pytest.fixture(scope="module")
def writer(tokenizer: PreTrainedTokenizerFast) -> Writer:
    return Writer(tokenizer)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [batches.degraded_scene(job, seed, 1.0) for seed in range(8) for job in batches.JOBS]


def rows(sort: Any, writer: Writer, scenes: list[Scene]) -> list[Conversation]:
    conversations = [sort(writer, [scene], Random(seed), 5) for seed, scene in enumerate(scenes)]
    return [*conversations, sort(writer, [], Random(99), 5), sort(writer, [scenes[0], scenes[3]], Random(98), 5)]


def rendered(writer: Writer, messages: list[dict[str, Any]], scene: Scene, **options: Any) -> list[int]:
    text = str(writer.tokenizer.apply_chat_template(messages, tokenize=False, **options))
    high, wide = sizes([scene])[0]
    return list(
        writer.tokenizer.encode(text.replace("<|image|>", "<|image|>" * (high * wide)), add_special_tokens=False)
    )


def asked(question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


def test_a_conversation_with_tools_is_what_the_chat_template_renders(writer: Writer, scenes: list[Scene]) -> None:
    user, observation = writer.user_token, writer.observation_token
    for seed, scene in enumerate(scenes):
        rng = Random(seed)
        offered = tools.offer(scene, 3, "zh", rng)
        task = Task.choose(tools.fitting(offered, scene), scene, "en", rng)
        if not task.calls:
            continue
        definitions = [tool.definition for tool in offered]
        row = Conversation()
        writer.start(row, "Answer briefly.", definitions)
        writer.ask(row, task.wording, sizes([scene]))
        writer.answer(row, task.call_turn(rng), calls=True)
        calls = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in task.calls
        ]
        messages = [
            {"role": "system", "content": "Answer briefly."},
            asked(task.wording),
            {"role": "assistant", "content": "", "tool_calls": calls},
        ]
        assert [*rendered(writer, messages, scene, tools=definitions), observation] == [*row.ids, row.end]
        results = [request.result for request in task.requests]
        writer.return_results(row, results)
        writer.answer(row, task.report_turn(rng))
        messages += [{"role": "tool", "content": result} for result in results]
        messages += [{"role": "assistant", "content": task.report}]
        assert [*rendered(writer, messages, scene, tools=definitions), user] == [*row.ids, row.end]


def test_reasoning_follows_the_prompt_that_the_chat_template_renders_for_it(
    writer: Writer, scenes: list[Scene]
) -> None:
    row = Conversation()
    writer.start(row, None)
    writer.turn(row, Turn("total", "合计是多少？", "12.50"), sizes(scenes[:1]))
    writer.ask(row, "日期呢？", [])
    prompt = [asked("合计是多少？"), {"role": "assistant", "content": "12.50"}, {"role": "user", "content": "日期呢？"}]
    opened = rendered(writer, prompt, scenes[0], add_generation_prompt=True, enable_thinking=True)
    writer.answer(row, Turn("date", "日期呢？", "2024-05-06", thought="看第2行。"))
    writer.close(row)
    assert row.ids == opened + writer.encode("看第2行。</think>\n2024-05-06<|user|>")


@pytest.mark.parametrize("sort", SORTS)
def test_ids_encoded_piece_by_piece_equal_those_of_the_complete_text(
    sort: Any, writer: Writer, scenes: list[Scene]
) -> None:
    for row in rows(sort, writer, scenes):
        whole = str(writer.tokenizer.decode(row.ids))
        assert writer.encode(whole) == row.ids


@pytest.mark.parametrize("sort", SORTS)
def test_the_loss_is_on_the_answers_and_the_id_that_ends_them(sort: Any, writer: Writer, scenes: list[Scene]) -> None:
    call = writer.tokenizer.convert_tokens_to_ids("</tool_call>")
    for row in rows(sort, writer, scenes):
        trained = {at for _, first, stop in row.answers for at in range(first, stop)}
        assert {at for at, weight in enumerate(row.weights) if weight} == trained
        for _, _, stop in row.answers:
            ends_a_call = row.ids[stop - 2] == call
            assert row.ids[stop - 1] == (writer.observation_token if ends_a_call else writer.user_token)


@pytest.mark.parametrize("sort", SORTS)
def test_reasoning_is_in_the_last_answer_only(sort: Any, writer: Writer, scenes: list[Scene]) -> None:
    opened = writer.tokenizer.convert_tokens_to_ids("<think>")
    for row in rows(sort, writer, scenes):
        _, _, stop = row.answers[-1]
        places = [at for at, token in enumerate(row.ids) if token in (opened, writer.end_think)]
        assert len(places) in (0, 2)
        assert all(row.answers[-2][2] <= at < stop for at in places if len(row.answers) > 1)


def test_reasoning_cut_by_a_budget_is_not_trained_on_but_its_answer_is(writer: Writer, scenes: list[Scene]) -> None:
    row = Conversation()
    writer.start(row, None)
    writer.ask(row, "Date?", sizes(scenes[:1]))
    writer.answer(row, Turn("date", "Date?", "2024", thought="It stands after DATE."), keep=0.5)
    writer.close(row)
    end = row.ids.index(writer.end_think)
    assert not any(row.weights[: end + 1])
    assert all(row.weights[end + 1 :])
    assert writer.tokenizer.decode(row.ids[end + 1 :]) == "\n2024<|user|>"


def test_the_abilities_have_less_than_three_tenths_of_the_loss(writer: Writer, scenes: list[Scene]) -> None:
    new = total = 0.0
    for sort, share in batches.SORTS:
        for row in rows(sort, writer, scenes):
            of_row = {True: 0.0, False: 0.0}
            for kind, first, stop in row.answers:
                reasoned = writer.end_think in row.ids[max(0, first - 1) : stop]
                of_row[reasoned or kind.startswith(("place", "call", "report"))] += sum(row.weights[first:stop])
            new += share * of_row[True] / sum(of_row.values())
            total += share
    assert new / total < 0.3


def test_about_half_of_the_questions_with_tools_need_a_call(writer: Writer, scenes: list[Scene]) -> None:
    kinds = [kind for row in rows(use_tools, writer, scenes) for kind, _, _ in row.answers if kind != "report"]
    assert 0.3 < kinds.count("call") / len(kinds) < 0.8


def test_a_template_without_tools_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    class Deaf:
        def apply_chat_template(self, *_: Any, **__: Any) -> str:
            return "[gMASK]<sop><|user|>\n"

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    writer = Writer(Deaf())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tools"):
        writer.start(Conversation(), None, [{"type": "function", "function": {"name": "f"}}])
