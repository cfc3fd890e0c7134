"""Scenes to token sequences: several questions per picture, the loss on the answers only.

The sequence equals what the chat template renders (tested); it is built from ids, because rendering the template would
be slow. Positions have three axes and equal `get_rope_index` (tested).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from training import phrases, thoughts
from training.scenes import Fact, Language, Scene

# The main kinds of the three jobs are asked more often than others.
_WEIGHTS = {
    "tracking": 3.0, "recipient": 2.5, "phone": 2.5, "address": 3.0, "light": 3.0, "model": 1.2, "defect": 4.0,
    "defect_kind": 1.5,
    "defect_place": 2.0, "defect_exists": 1.0, "board_number": 1.5, "number": 2.5, "date": 2.0, "party": 3.0,
    "total": 3.0,
    "stamp": 2.5, "row_quantity": 0.8, "row_price": 0.8, "row_amount": 0.9, "row_name": 0.2, "light_absent": 0.6,
    "light_color": 0.8, "title": 0.7,
}  # fmt: skip
SHORT_WEIGHT = 2.0  # loss weight of a short answer's tokens, relative to those of a long answer


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    kind: str
    question: str
    answer: str
    weight: float = SHORT_WEIGHT
    thought: str = ""  # the reasoning before the answer; only the last turn of a conversation may have one


@dataclass
class Conversation:
    """One row of a batch while it is being written."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # 0: not trained on
    answers: list[tuple[str, int, int]] = field(default_factory=list)  # kind, first and last+1 of the answer's ids
    images: list[tuple[int, int, int]] = field(default_factory=list)  # first id, rows, columns of merged tokens
    end: int = -1  # the id that ends the last answer: the role that follows


class Writer:
    """Writes conversations with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        token = tokenizer.convert_tokens_to_ids
        newline = self.encode("\n")
        self.head = [token("[gMASK]"), token("<sop>")]
        self.system = [token("<|system|>"), *newline]
        self.user_token, self.observation_token = token("<|user|>"), token("<|observation|>")
        self.user = [self.user_token, *newline]
        self.assistant = [token("<|assistant|>"), *newline]
        self.think, self.end_think = [token("<think>"), *newline], token("</think>")
        self.begin, self.end = token("<|begin_of_image|>"), token("<|end_of_image|>")
        self.image = token("<|image|>")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer._tokenizer.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def start(self, row: Conversation, system: str | None, tools: Sequence[dict[str, Any]] = ()) -> None:
        """The beginning of a conversation, with the tools as the chat template renders them."""
        if not tools:
            self._put(row, self.head + ([*self.system, *self.encode(system)] if system else []), 0.0)
            return
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": ""})
        rendered = str(self.tokenizer.apply_chat_template(messages, tools=list(tools), tokenize=False))
        if not all(tool["function"]["name"] in rendered for tool in tools):
            raise ValueError("the chat template of the model's folder does not tell of tools")
        self._put(row, self.encode(rendered[: rendered.rindex("<|user|>")]), 0.0)

    def ask(
        self, row: Conversation, question: str, pictures: list[tuple[int, int]], *, text_first: bool = False
    ) -> None:
        self._put(row, self.user + (self.encode(question) if text_first else []), 0.0)
        for rows, columns in pictures:
            self._put(row, [self.begin], 0.0)
            row.images.append((len(row.ids), rows, columns))
            self._put(row, [self.image] * (rows * columns) + [self.end], 0.0)
        self._put(row, [] if text_first else self.encode(question), 0.0)

    def return_results(self, row: Conversation, results: Sequence[str]) -> None:
        """Adds the results of tool calls."""
        text = "".join(f"\n<tool_response>\n{result}\n</tool_response>" for result in results)
        self._put(row, [self.observation_token, *self.encode(text)], 0.0)

    def open_answer(self, row: Conversation, *, thinking: bool = False) -> None:
        """Adds the prompt of an answer."""
        self._put(row, self.assistant + (self.think if thinking else []), 0.0)

    def answer(self, row: Conversation, turn: Turn, *, calls: bool = False, keep: float = 1.0) -> None:
        """Adds an answer with its reasoning; `keep` is the share of the reasoning that remains after a cut.

        A cut reasoning and its end are not trained on: a token budget ends it, not the model.
        """
        self.open_answer(row, thinking=bool(turn.thought))
        first = len(row.ids)
        if turn.thought:
            thought = self.encode(turn.thought)
            thought = thought[: round(len(thought) * keep)]
            self._put(row, [*thought, self.end_think], 1.0 if keep == 1 else 0.0)
            if keep < 1:
                first = len(row.ids)
            self._put(row, self.encode("\n"), turn.weight)
        self._put(row, self.encode(turn.answer), turn.weight)
        # the first id of the next role is the stop id of this answer
        row.answers.append((turn.kind, first, len(row.ids) + 1))
        row.end = self.observation_token if calls else self.user_token

    def turn(self, row: Conversation, turn: Turn, pictures: list[tuple[int, int]], *, text_first: bool = False) -> None:
        self.ask(row, turn.question, pictures, text_first=text_first)
        self.answer(row, turn)

    def close(self, row: Conversation) -> None:
        self._put(row, [row.end], 0.0)
        for _, _, stop in row.answers:
            row.weights[stop - 1] = row.weights[stop - 2]

    @staticmethod
    def _put(row: Conversation, ids: list[int], weight: float) -> None:
        row.ids += ids
        row.weights += [weight] * len(ids)


def converse(writer: Writer, scenes: list[Scene], rng: Random, turns: int) -> Conversation:
    """A conversation about one picture, two, or none."""
    row = Conversation()
    writer.start(row, system(rng))
    if not scenes:
        for _ in range(rng.randrange(1, 3)):
            writer.turn(row, no_picture_turn(rng), [])
        writer.close(row)
        return row
    pictures = sizes(scenes)
    if (
        len(scenes) == 2 and rng.random() < 0.4
    ):  # the second picture comes later, and the following questions are about it
        for scene, picture in zip(scenes, pictures, strict=True):
            _add_turns(writer, row, [scene], [picture], rng, turns // 2)
    else:
        _add_turns(writer, row, scenes, pictures, rng, turns)
    writer.close(row)
    return row


def _add_turns(
    writer: Writer, row: Conversation, scenes: list[Scene], pictures: list[tuple[int, int]], rng: Random, turns: int
) -> None:
    """Turns about the pictures that the first of them shows."""
    pending = [short_turn(scenes, rng) for _ in range(turns)]
    if rng.random() < 0.75:
        # long answers mostly come last: a question after them could be answered from their text
        at = len(pending) if rng.random() < 0.8 else rng.randrange(len(pending) + 1)
        pending.insert(at, long_turn(scenes, rng))
    text_first = rng.random() < 0.1
    for turn in distinct(pending):
        writer.turn(row, turn, pictures, text_first=text_first)
        pictures = []


def examine(writer: Writer, scene: Scene, fact: Fact, language: Language, rng: Random) -> Conversation:
    """One question about one picture, for the validation during training."""
    question, answer = phrases.ask(fact, language, rng, plain=True)
    return single(writer, sizes([scene])[0], fact.kind, question, answer)


def single(writer: Writer, picture: tuple[int, int], kind: str, question: str, answer: str) -> Conversation:
    row = Conversation()
    writer.start(row, None)
    writer.turn(row, Turn(kind, question, answer, 1.0), [picture])
    writer.close(row)
    return row


def sizes(scenes: list[Scene]) -> list[tuple[int, int]]:
    """Rows and columns of each picture's merged tokens."""
    return [(scene.image.height // 28, scene.image.width // 28) for scene in scenes]


def choose_fact(scene: Scene, rng: Random, among: list[Fact] | None = None) -> Fact:
    """One of the scene's facts, or of `among`; the main kinds of the jobs are chosen more often."""
    facts = scene.facts if among is None else among
    return rng.choices(facts, [_WEIGHTS.get(fact.kind, 0.7) for fact in facts])[0]


def positions(row: Conversation) -> NDArray[np.int64]:
    """Positions on the time, height and width axes, (3, tokens)."""
    places = np.empty((3, len(row.ids)), np.int64)
    at = done = 0
    for first, rows, columns in row.images:
        places[:, done:first] = np.arange(at, at + first - done)
        at += first - done
        done = first + rows * columns
        places[0, first:done] = at
        places[1, first:done] = at + np.repeat(np.arange(rows), columns)
        places[2, first:done] = at + np.tile(np.arange(columns), rows)
        at += max(rows, columns)
    places[:, done:] = np.arange(at, at + len(row.ids) - done)
    return places


def choose_language(rng: Random) -> Language:
    return "zh" if rng.random() < 0.6 else "en"


def system(rng: Random) -> str | None:
    return rng.choice(phrases.SYSTEM) if rng.random() < 0.12 else None


def no_picture_turn(rng: Random, reasoned: bool = False) -> Turn:
    """Small talk, or a question about a picture although there is none."""
    language = choose_language(rng)
    if rng.random() < 0.5:
        question = rng.choice(phrases.SMALL_TALK[language])
    else:
        kind = rng.choice(("tracking", "phone", "total", "stamp", "defect", "date", "recipient"))
        question = rng.choice(phrases.QUESTIONS[kind][0 if language == "zh" else 1])
    thought = thoughts.NO_PICTURE[language] if reasoned else ""
    return Turn("no_picture", question, phrases.NO_PICTURE[language], 1.0, thought)


def short_turn(scenes: list[Scene], rng: Random, reasoned: bool = False) -> Turn:
    """A question for one fact of one of the pictures."""
    language = choose_language(rng)
    which = rng.randrange(len(scenes))
    scene = scenes[which]
    thought = ""
    if rng.random() < 0.02:  # a kind that this picture does not have
        other = {"labels": ("total", "stamp"), "boards": ("tracking", "total"), "documents": ("tracking", "defect")}
        kind = rng.choice(other[scene.job])
        question = rng.choice(phrases.QUESTIONS[kind][0 if language == "zh" else 1])
        question, answer, kind = phrases.polite(question, language, rng), phrases.ABSENT[language], "absent"
        if reasoned:
            thought = thoughts.missing(scene, language)
    else:
        fact = choose_fact(scene, rng)
        question, answer = phrases.ask(fact, language, rng)
        kind = fact.kind
        if reasoned:
            thought = thoughts.about(scene, fact, language, rng)
    return Turn(kind, named(question, which, scenes, language, rng), answer, SHORT_WEIGHT, thought)


def long_turn(scenes: list[Scene], rng: Random, reasoned: bool = False) -> Turn:
    """A question for all text, a description, or the main fields."""
    language = choose_language(rng)
    which = rng.randrange(len(scenes))
    scene = scenes[which]
    side = 0 if language == "zh" else 1
    kind = rng.choices(("read_all", "describe", "as_json"), (6, 3, 1))[0]
    if kind == "read_all":
        question, answer = rng.choice(phrases.READ_ALL[side]), "\n".join(scene.lines)
    elif kind == "describe":
        question, answer = rng.choice(phrases.DESCRIBE[side]), phrases.describe(scene, language)
    else:
        question, answer = rng.choice(phrases.AS_JSON[side]), phrases.as_json(scene, language)
    thought = thoughts.description(scene, language) if reasoned else ""
    return Turn(kind, named(question, which, scenes, language, rng), answer, 1.0, thought)


def named(question: str, which: int, scenes: list[Scene], language: Language, rng: Random) -> str:
    """The question; if there are two pictures, it names one of them."""
    if len(scenes) < 2:
        return question
    return rng.choice(phrases.FIRST_SECOND[language])[which] + question


def distinct(turns: list[Turn]) -> list[Turn]:
    """The turns without repeated questions."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for turn in turns:
        if (turn.kind, turn.answer) not in seen:
            seen.add((turn.kind, turn.answer))
            kept.append(turn)
    return kept
