"""Validation during training, on pictures that it does not draw: the jobs' questions and the four abilities.

If only one text is correct, one pass over the correct answer shows whether greedy decoding gives it. Reasoning and
boxes may differ from the reference and still be correct, so they are generated token by token.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training import phrases, pointing, tools
from training.abilities import Task
from training.architecture import Reader
from training.batches import VALIDATION_SEEDS, Batch, collate, degraded_scene
from training.conversations import Conversation, Turn, Writer, choose_fact, choose_language, examine, sizes
from training.scenes import Scene

ABILITIES_FROM = VALIDATION_SEEDS[0] + 1_000_000  # other pictures than for the jobs' questions
_LONGEST = {"thinking": 112, "pointing": 40}  # tokens of a generated answer
_END_THINK = "</think>\n"
_HIT = 0.5  # least overlap of a correct box


@dataclass(frozen=True)
class FreeExam:
    """Prompts, each a row with room for an answer, and a check of the answer."""

    batch: Batch
    starts: Tensor  # (rows,): where each answer begins
    longest: int  # room for the answer, in tokens
    correct: list[Callable[[str], bool]]


@dataclass(frozen=True)
class Abilities:
    """One job's exam of the abilities."""

    free: dict[str, FreeExam]  # thinking, pointing
    fixed: Batch  # kinds: tools (a call, or none if none is expected) and results


def job_exam(job: str, rows: int, tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Single questions about fully degraded pictures of the validation seeds."""
    writer = Writer(tokenizer)
    scenes, conversations = [], []
    for row in range(rows):
        seed = VALIDATION_SEEDS[0] + row
        scene, rng = degraded_scene(job, seed, 1.0), Random(seed)
        scenes.append(scene)
        conversations.append(examine(writer, scene, choose_fact(scene, rng), rng.choice(("zh", "en")), rng))
    return collate(scenes, conversations, writer)


def abilities_exam(job: str, rows: int, tokenizer: PreTrainedTokenizerFast) -> Abilities:
    """`rows` questions of each ability."""
    writer = Writer(tokenizer)
    scenes = [degraded_scene(job, ABILITIES_FROM + row, 1.0) for row in range(rows)]
    free = {}
    for ability, ask in (("thinking", _ask_to_think), ("pointing", _ask_to_point)):
        asked = [ask(writer, scene, Random(row)) for row, scene in enumerate(scenes)]
        starts = torch.tensor([len(prompt.ids) for prompt, _ in asked])
        for prompt, _ in asked:
            prompt.ids += [writer.user_token] * _LONGEST[ability]
        batch = collate(scenes, [prompt for prompt, _ in asked], writer)
        free[ability] = FreeExam(batch, starts, _LONGEST[ability], [correct for _, correct in asked])
    # each picture twice: with tools that are needed or not, and with their results
    conversations = [
        _with_tools(writer, scene, Random(row), with_results)
        for with_results in (False, True)
        for row, scene in enumerate(scenes)
    ]
    return Abilities(free, collate(scenes * 2, conversations, writer))


def _ask_to_think(writer: Writer, scene: Scene, rng: Random) -> tuple[Conversation, Callable[[str], bool]]:
    question, answer = phrases.ask(choose_fact(scene, rng), choose_language(rng), rng, plain=True)

    def correct(generated: str) -> bool:
        thought, closed, rest = generated.partition(_END_THINK)
        return bool(thought.strip() and closed) and rest == answer + "<|user|>"

    return _prompt(writer, scene, question, thinking=True), correct


def _ask_to_point(writer: Writer, scene: Scene, rng: Random) -> tuple[Conversation, Callable[[str], bool]]:
    facts = [fact for fact in pointing.pointable(scene) if pointing.region(scene, fact)]
    fact = choose_fact(scene, rng, facts)
    question, _ = pointing.ask(scene, fact, choose_language(rng), rng, plain=True)
    region = pointing.region(scene, fact)
    assert region

    def correct(generated: str) -> bool:
        box = (
            pointing.pointed(generated)
            if pointing.BEGIN in generated and generated.endswith(pointing.END + "<|user|>")
            else None
        )
        return box is not None and pointing.overlap(box, region) >= _HIT

    return _prompt(writer, scene, question), correct


def _prompt(writer: Writer, scene: Scene, question: str, *, thinking: bool = False) -> Conversation:
    row = Conversation()
    writer.start(row, None)
    writer.ask(row, question, sizes([scene]))
    writer.open_answer(row, thinking=thinking)
    return row


def _with_tools(writer: Writer, scene: Scene, rng: Random, with_results: bool) -> Conversation:
    """A question with tools: for a call or a plain answer; if `with_results`, for the answer after a call's results."""
    row = Conversation()
    language = choose_language(rng)
    offered = tools.offer(scene, rng.randrange(1, 4), language, rng)
    task = Task.choose(tools.fitting(offered, scene), scene, language, rng)
    writer.start(row, None, [tool.definition for tool in offered])
    if not with_results and rng.random() < 0.4:
        question, answer = phrases.ask(choose_fact(scene, rng), language, rng, plain=True)
        writer.turn(row, Turn("tools", question, answer), sizes([scene]))
    else:
        call = task.call_turn(rng)
        writer.ask(row, call.question, sizes([scene]))
        writer.answer(row, Turn("tools", call.question, call.answer), calls=bool(task.calls))
        if with_results and task.calls:
            row.answers.clear()  # its call is given
            writer.return_results(row, [request.result for request in task.requests])
            writer.answer(row, Turn("results", "", task.report))
    writer.close(row)
    return row


@torch.no_grad()
def judge(reader: Reader, batch: Batch) -> list[tuple[str, bool]]:
    """For each answer its kind and whether greedy decoding gives exactly this answer.

    It does if and only if every next id is the most likely one.
    """
    moved = _moved(reader, batch)
    with _precision(moved["ids"]):
        features = reader.see(moved["images"])[0]
        hidden = reader.read(features, moved["ids"], moved["positions"])
        logits = reader.model.lm_head(hidden.flatten(0, 1)[moved["where"]])
    correct = (logits.argmax(-1) == moved["targets"]).cpu()
    return [(kind, bool(correct[first:stop].all())) for kind, first, stop in batch["answers"]]


@torch.no_grad()
def answer(reader: Reader, exam: FreeExam, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The greedy answer to each prompt, with special tokens, up to the id that ends it.

    Each token recomputes the rows: for such short answers a KV cache would not pay off.
    """
    moved = _moved(reader, exam.batch)
    ids, positions = moved["ids"].clone(), moved["positions"]
    rows, starts = torch.arange(len(ids), device=ids.device), exam.starts.to(ids.device)
    at, last = starts.clone(), starts + exam.longest
    ends = torch.tensor(reader.model.config.text_config.eos_token_id, device=ids.device)
    with _precision(ids):
        features = reader.see(moved["images"])[0]
        while (at < last).any():
            hidden = reader.read(features, ids, positions)
            logits = reader.model.lm_head(hidden[rows, at - 1]).float()
            logits[:, reader.image_token] = -torch.inf  # a picture has as many of these as it has features
            drawn = logits.argmax(-1)
            going = at < last
            ids[rows[going], at[going]] = drawn[going]
            at += going
            last = torch.where(going & torch.isin(drawn, ends), at, last)
    pairs = zip(starts.tolist(), at.tolist(), strict=True)
    return [str(tokenizer.decode(row[first:stop])) for row, (first, stop) in zip(ids.tolist(), pairs, strict=True)]


def shares(judged: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """The share of correct answers, by kind."""
    return {kind: round(correct / asked, 4) for kind, (correct, asked) in _counts(judged).items()}


def examine_jobs(reader: Reader, exams: dict[str, Batch]) -> dict[str, float]:
    return shares((job, correct) for job, exam in exams.items() for _, correct in judge(reader, exam))


def examine_abilities(reader: Reader, exams: list[Abilities], tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    judged = []
    for exam in exams:
        for ability, free in exam.free.items():
            answers = answer(reader, free, tokenizer)
            judged += [(ability, correct(text)) for correct, text in zip(free.correct, answers, strict=True)]
        judged += judge(reader, exam.fixed)
    return shares(judged)


def kinds(reader: Reader, exams: dict[str, Batch]) -> dict[str, str]:
    """Correct and all answers, by kind of question."""
    counts = _counts(judged for exam in exams.values() for judged in judge(reader, exam))
    return {kind: f"{correct}/{asked}" for kind, (correct, asked) in sorted(counts.items())}


def _counts(judged: Iterable[tuple[str, bool]]) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for kind, correct in judged:
        counts[kind][0] += correct
        counts[kind][1] += 1
    return counts


def _precision(ids: Tensor) -> torch.autocast:
    return torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda)


def _moved(reader: Reader, batch: Batch) -> dict[str, Any]:
    device = next(reader.parameters()).device
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
