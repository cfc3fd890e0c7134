"""Conversations with reasoning, boxes and tool calls, mixed with plain questions.

The model learns which is expected: reasoning after a prompt that ends in `<think>`, a box from the question's wording,
a call if a tool fits the question. Only the last answer has reasoning, because the template drops earlier reasoning.
"""

from dataclasses import dataclass
from random import Random

from training import phrases, pointing, thoughts, tools
from training.boards import NO_DEFECT
from training.conversations import (
    Conversation,
    Turn,
    Writer,
    choose_fact,
    choose_language,
    distinct,
    long_turn,
    named,
    no_picture_turn,
    short_turn,
    sizes,
    system,
)
from training.scenes import Language, Scene
from training.skills import SKILLS

_CUT_SHORT = 0.12  # share of the reasonings that a token budget cuts off


@dataclass(frozen=True)
class Task:
    """One or two requests that the given tools can fulfil."""

    requests: tuple[tools.Request, ...]
    language: Language

    @classmethod
    def choose(cls, usable: list[tools.Tool], scene: Scene | None, language: Language, rng: Random) -> "Task":
        chosen = rng.sample(usable, 2 if len(usable) > 1 and rng.random() < 0.2 else 1)
        requests = tuple(tools.request(tool, scene, language, rng) for tool in chosen)
        return cls(requests if all(request.call for request in requests) else requests[:1], language)

    @property
    def wording(self) -> str:
        return ("另外，" if self.language == "zh" else " Also: ").join(request.wording for request in self.requests)

    @property
    def calls(self) -> list[tools.Call]:
        return [request.call for request in self.requests if request.call]

    @property
    def report(self) -> str:
        return ("" if self.language == "zh" else " ").join(request.report for request in self.requests)

    def call_turn(self, rng: Random, reasoned: bool = False) -> Turn:
        """The calls; for a board without a defect, a text that says so, because there is nothing to report."""
        answer = "\n".join(map(str, self.calls)) or NO_DEFECT[0 if self.language == "zh" else 1]
        in_picture = any(request.tool.skill not in SKILLS["any"] for request in self.requests)
        thought = thoughts.use_tools(self._names(), in_picture, self.language, rng) if reasoned and self.calls else ""
        return Turn("call" if self.calls else "no_call", self.wording, answer, thought=thought)

    def report_turn(self, rng: Random, reasoned: bool = False) -> Turn:
        thought = thoughts.report_results(self._names(), self.language, rng) if reasoned else ""
        return Turn("report", "", self.report, thought=thought)

    def _names(self) -> list[str]:
        return [call.name for call in self.calls]


def think(writer: Writer, scenes: list[Scene], rng: Random, turns: int) -> Conversation:
    """A short conversation whose last answer has reasoning."""
    row = Conversation()
    writer.start(row, system(rng))
    pictures = sizes(scenes)
    for turn in distinct([short_turn(scenes, rng) for _ in range(rng.randrange(turns)) if scenes]):
        writer.turn(row, turn, pictures)
        pictures = []
    last = reasoned_turn(scenes, rng)
    writer.ask(row, last.question, pictures)
    writer.answer(row, last, keep=_kept(rng))
    writer.close(row)
    return row


def point(writer: Writer, scenes: list[Scene], rng: Random, turns: int) -> Conversation:
    """A conversation in which about half of the questions ask for a place."""
    row = Conversation()
    writer.start(row, system(rng))
    kinds = [short_turn if rng.random() < 0.4 else place_turn for _ in range(turns + 3)]
    pending = distinct([turn(scenes, rng) for turn in kinds]) if scenes else [no_picture_turn(rng)]
    pictures = sizes(scenes)
    for turn in pending:
        writer.turn(row, turn, pictures)
        pictures = []
    writer.close(row)
    return row


def use_tools(writer: Writer, scenes: list[Scene], rng: Random, turns: int) -> Conversation:
    """A conversation with tools, in which about half of the questions need a call."""
    row = Conversation()
    which = rng.randrange(len(scenes)) if scenes else 0
    scene = scenes[which] if scenes else None
    offered = tools.offer(scene, rng.randrange(1, 4), choose_language(rng), rng)
    writer.start(row, system(rng), [tool.definition for tool in offered])
    usable = tools.fitting(offered, scene)
    pictures = sizes(scenes)
    thinks = rng.random() < 0.3
    for left in reversed(range(turns - 2)):  # the definitions are long, so the conversation is short
        reasoned = thinks and left == 0
        if not usable or rng.random() < 0.4:
            turn = _plain_turn(scenes, rng, reasoned)
            writer.ask(row, turn.question, pictures)
            writer.answer(row, turn, keep=_kept(rng))
            pictures = []
            continue
        task = Task.choose(usable, scene, choose_language(rng), rng)
        usable = [tool for tool in usable if tool not in [request.tool for request in task.requests]]
        wording = phrases.polite(task.wording, task.language, rng)
        writer.ask(row, named(wording, which, scenes, task.language, rng), pictures)
        pictures = []
        with_results = bool(task.calls) and rng.random() < (0.5 if reasoned else 0.8)
        call_turn = task.call_turn(rng, reasoned and not with_results)
        writer.answer(row, call_turn, calls=bool(task.calls), keep=_kept(rng))
        if with_results:
            writer.return_results(row, [request.result for request in task.requests])
            writer.answer(row, task.report_turn(rng, reasoned), keep=_kept(rng))
        elif task.calls:
            break  # only results may follow a call
    writer.close(row)
    return row


def reasoned_turn(scenes: list[Scene], rng: Random) -> Turn:
    """A question of any kind, answered after reasoning."""
    if not scenes:
        return no_picture_turn(rng, reasoned=True)
    kind = rng.choices((short_turn, place_turn, long_turn), (0.74, 0.16, 0.1))[0]
    return kind(scenes, rng, reasoned=True)


def place_turn(scenes: list[Scene], rng: Random, reasoned: bool = False) -> Turn:
    """A question for the place of a fact in one of the pictures."""
    language = choose_language(rng)
    which = rng.randrange(len(scenes))
    scene = scenes[which]
    fact = choose_fact(scene, rng, pointing.pointable(scene))
    question, answer = pointing.ask(scene, fact, language, rng)
    thought = thoughts.place(scene, fact, language, rng) if reasoned else ""
    return Turn("place " + fact.kind, named(question, which, scenes, language, rng), answer, 1.0, thought)


def _plain_turn(scenes: list[Scene], rng: Random, reasoned: bool) -> Turn:
    return short_turn(scenes, rng, reasoned) if scenes else no_picture_turn(rng, reasoned)


def _kept(rng: Random) -> float:
    return rng.random() if rng.random() < _CUT_SHORT else 1.0
