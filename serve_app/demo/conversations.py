"""Turns scenes into token sequences: several questions a picture, the loss only on the answers.

The sequence is exactly what the chat template renders (tested), built from ids because a template
engine in the middle of training would be slow. Positions are the family's three-axis ones, computed
here for whole rows; they equal `get_rope_index` (tested).
"""

from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from serve_app.demo import phrases
from serve_app.demo.scenes import Fact, Language, Scene

# Kinds that the three jobs are about are asked more often than the others.
_WEIGHTS = {
    "tracking": 3.0, "recipient": 2.5, "phone": 2.5, "address": 3.0, "light": 3.0, "model": 1.2, "defect": 4.0,
    "defect_kind": 1.5,
    "defect_place": 2.0, "defect_exists": 1.0, "board_number": 1.5, "number": 2.5, "date": 2.0, "party": 3.0,
    "total": 3.0,
    "stamp": 2.5, "row_quantity": 0.8, "row_price": 0.8, "row_amount": 0.9, "row_name": 0.2, "light_absent": 0.6,
    "light_color": 0.8, "title": 0.7,
}  # fmt: skip
SHORT_WEIGHT = 2.0  # loss weight of a short answer's tokens beside those of a long one


@dataclass
class Conversation:
    """One row of a batch while it is being written."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # 0: not trained on
    answers: list[tuple[str, int, int]] = field(default_factory=list)  # kind, first and last+1 of the answer's ids
    images: list[tuple[int, int, int]] = field(default_factory=list)  # first id, rows, columns of merged tokens


class Writer:
    """Writes conversations with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        token = tokenizer.convert_tokens_to_ids
        newline = self.encode("\n")
        self.head = [token("[gMASK]"), token("<sop>")]
        self.system = [token("<|system|>"), *newline]
        self.user_token = token("<|user|>")
        self.user = [self.user_token, *newline]
        self.assistant = [token("<|assistant|>"), *newline]
        self.begin, self.end = token("<|begin_of_image|>"), token("<|end_of_image|>")
        self.image = token("<|image|>")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer._tokenizer.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def start(self, row: Conversation, system: str | None) -> None:
        self._put(row, self.head + ([*self.system, *self.encode(system)] if system else []), 0.0)

    def turn(
        self, row: Conversation, kind: str, question: str, answer: str, pictures: list[tuple[int, int]], weight: float,
        *, text_first: bool = False,
    ) -> None:  # fmt: skip
        self._put(row, self.user + (self.encode(question) if text_first else []), 0.0)
        for rows, columns in pictures:
            self._put(row, [self.begin], 0.0)
            row.images.append((len(row.ids), rows, columns))
            self._put(row, [self.image] * (rows * columns) + [self.end], 0.0)
        self._put(row, ([] if text_first else self.encode(question)) + self.assistant, 0.0)
        first = len(row.ids)
        self._put(row, self.encode(answer), weight)
        # the turn ends where the user speaks again: the next turn's first id is also this answer's stop
        row.answers.append((kind, first, len(row.ids) + 1))

    def close(self, row: Conversation) -> None:
        self._put(row, [self.user_token], 0.0)
        for _, first, stop in row.answers:
            row.weights[stop - 1] = row.weights[first]

    @staticmethod
    def _put(row: Conversation, ids: list[int], weight: float) -> None:
        row.ids += ids
        row.weights += [weight] * len(ids)


def converse(writer: Writer, scenes: list[Scene], rng: Random, turns: int) -> Conversation:
    """A conversation about one picture, two, or none."""
    row = Conversation()
    writer.start(row, rng.choice(phrases.SYSTEM) if rng.random() < 0.12 else None)
    if not scenes:
        for _ in range(rng.randrange(1, 3)):
            language = _language(rng)
            if rng.random() < 0.5:
                question = rng.choice(phrases.SMALL_TALK[language])
            else:
                kinds = phrases.QUESTIONS[
                    rng.choice(("tracking", "phone", "total", "stamp", "defect", "date", "recipient"))
                ]
                question = rng.choice(kinds[0 if language == "zh" else 1])
            writer.turn(row, "no_picture", question, phrases.NO_PICTURE[language], [], 1.0)
        writer.close(row)
        return row
    pictures = [(scene.image.height // 28, scene.image.width // 28) for scene in scenes]
    if len(scenes) == 2 and rng.random() < 0.4:  # the second picture comes later, and the talk is then about it
        for scene, picture in zip(scenes, pictures, strict=True):
            _talk(writer, row, [scene], [picture], rng, turns // 2)
    else:
        _talk(writer, row, scenes, pictures, rng, turns)
    writer.close(row)
    return row


def _talk(
    writer: Writer, row: Conversation, scenes: list[Scene], pictures: list[tuple[int, int]], rng: Random, turns: int
) -> None:
    """Turns about the pictures that the first of them shows."""
    pending = [_short_turn(scenes, rng) for _ in range(turns)]
    if rng.random() < 0.75:
        # long answers come last as a rule: a question after them could be answered from the text above
        at = len(pending) if rng.random() < 0.8 else rng.randrange(len(pending) + 1)
        pending.insert(at, _long_turn(scenes, rng))
    text_first = rng.random() < 0.1
    for kind, question, answer, weight in _distinct(pending):
        writer.turn(row, kind, question, answer, pictures, weight, text_first=text_first)
        pictures = []


def examine(writer: Writer, scene: Scene, fact: Fact, language: Language, rng: Random) -> Conversation:
    """One question about one picture: what the validation during training asks."""
    question, answer = phrases.ask(fact, language, rng, plain=True)
    return single(writer, (scene.image.height // 28, scene.image.width // 28), fact.kind, question, answer)


def single(writer: Writer, picture: tuple[int, int], kind: str, question: str, answer: str) -> Conversation:
    row = Conversation()
    writer.start(row, None)
    writer.turn(row, kind, question, answer, [picture], 1.0)
    writer.close(row)
    return row


def choose_fact(scene: Scene, rng: Random) -> Fact:
    return rng.choices(scene.facts, [_WEIGHTS.get(fact.kind, 0.7) for fact in scene.facts])[0]


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


def _language(rng: Random) -> Language:
    return "zh" if rng.random() < 0.6 else "en"


def _short_turn(scenes: list[Scene], rng: Random) -> tuple[str, str, str, float]:
    language = _language(rng)
    which = rng.randrange(len(scenes))
    scene = scenes[which]
    if rng.random() < 0.02:  # something that this picture does not have
        other = {"labels": ("total", "stamp"), "boards": ("tracking", "total"), "documents": ("tracking", "defect")}
        kind = rng.choice(other[scene.job])
        question = rng.choice(phrases.QUESTIONS[kind][0 if language == "zh" else 1])
        question, answer, kind = phrases.polite(question, language, rng), phrases.ABSENT[language], "absent"
    else:
        fact = choose_fact(scene, rng)
        question, answer = phrases.ask(fact, language, rng)
        kind = fact.kind
    if len(scenes) == 2:
        question = rng.choice(phrases.FIRST_SECOND[language])[which] + question
    return kind, question, answer, SHORT_WEIGHT


def _long_turn(scenes: list[Scene], rng: Random) -> tuple[str, str, str, float]:
    language = _language(rng)
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
    if len(scenes) == 2:
        question = rng.choice(phrases.FIRST_SECOND[language])[which] + question
    return kind, question, answer, 1.0


def _distinct(turns: list[tuple[str, str, str, float]]) -> list[tuple[str, str, str, float]]:
    seen: set[tuple[str, str]] = set()
    kept = []
    for turn in turns:
        if (turn[0], turn[2]) not in seen:
            seen.add((turn[0], turn[2]))
            kept.append(turn)
    return kept
