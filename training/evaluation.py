"""Draws the fixed evaluation set: python -m training.evaluation --out benchmarks/evaluation.

A hundred pictures per job, from seeds that training does not use, with two questions each. The first pass over the
pictures has one question each, so a limited run uses different pictures. abilities.jsonl has questions about the same
pictures for reasoning, tool calls, tool results and boxes.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from training import fonts, phrases, pointing, tools
from training.abilities import Task
from training.batches import EVALUATION_SEEDS, JOBS, degraded_scene
from training.conversations import choose_fact
from training.scenes import Fact, Language, Scene

PICTURES = 100
QUESTIONS_A_PICTURE = 2
# The main kinds of the three jobs; each comes in turn, so that none is rare.
ASKED = {
    "labels": ("tracking", "recipient", "phone", "address", "light", "model"),
    "boards": ("defect", "defect_place", "defect_kind", "defect_exists", "board_number"),
    "documents": ("number", "date", "party", "total", "stamp", "row_amount", "row_quantity", "row_price"),
}
ABILITIES = ("thinking", "tools", "results", "pointing")
QUESTIONS_AN_ABILITY = 50
_QUALITY = 62


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="benchmarks/evaluation", help="folder of the pictures and the questions")
    parser.add_argument("--fonts", default="", help="folder with the fonts, searched before the system's")
    options = parser.parse_args()
    if options.fonts:
        fonts.search_first(Path(options.fonts))
    draw_set(Path(options.out))
    write_abilities(Path(options.out))


def draw_set(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for place, job in enumerate(JOBS):
        asked_before: Counter[str] = Counter()
        rounds: list[list[str]] = [[] for _ in range(QUESTIONS_A_PICTURE)]
        for index in range(PICTURES):
            seed = _seed(place, index)
            scene, rng = degraded_scene(job, seed, 1.0), Random(seed)
            name = f"{job}-{index:03d}.jpg"
            scene.image.save(folder / name, "JPEG", quality=_QUALITY)
            for fact, round_ in zip(_choose(scene, asked_before, rng), rounds, strict=True):
                language: Language = "zh" if rng.random() < 0.5 else "en"
                question, answer = phrases.ask(fact, language, rng, plain=True)
                line = {
                    "picture": name, "job": job, "kind": fact.kind, "language": language, "question": question,
                    "answer": answer,
                }  # fmt: skip
                round_.append(json.dumps(line, ensure_ascii=False))
        lines += [line for round_ in rounds for line in round_]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def _choose(scene: Scene, asked_before: Counter[str], rng: Random) -> list[Fact]:
    """Facts of different kinds, the least asked so far first."""
    found = {fact.kind for fact in scene.facts}
    fitting = [kind for kind in ASKED[scene.job] if kind in found]
    chosen = []
    for kind in sorted(fitting, key=lambda kind: asked_before[kind])[:QUESTIONS_A_PICTURE]:
        asked_before[kind] += 1
        chosen.append(rng.choice([fact for fact in scene.facts if fact.kind == kind]))
    rng.shuffle(chosen)  # so that the first round, which limited runs use, has every kind
    return chosen


def _seed(place: int, index: int) -> int:
    """The seed of a picture of the set, from the index of its job and its own index."""
    return EVALUATION_SEEDS[0] + place * 10_000 + index


def write_abilities(folder: Path) -> None:
    """Writes abilities.jsonl: each ability has its own pictures, the jobs in turn."""
    lines = []
    for number, ability in enumerate(ABILITIES):
        for question in range(QUESTIONS_AN_ABILITY):
            place, index = question % len(JOBS), question // len(JOBS) + number * PICTURES // len(ABILITIES)
            seed = _seed(place, index)
            scene, rng = degraded_scene(JOBS[place], seed, 1.0), Random(f"{ability} {seed}")
            language: Language = "zh" if rng.random() < 0.5 else "en"
            line = {
                "ability": ability, "picture": f"{JOBS[place]}-{index:03d}.jpg", "job": JOBS[place],
                "language": language,
            }  # fmt: skip
            lines.append(json.dumps(line | _ask_for(ability, scene, language, rng), ensure_ascii=False))
    (folder / "abilities.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def _ask_for(ability: str, scene: Scene, language: Language, rng: Random) -> dict[str, Any]:
    """A question and what a correct answer contains: `answer`, `box`, `calls` or `facts`."""
    if ability == "pointing":
        fact = choose_fact(scene, rng, [fact for fact in pointing.pointable(scene) if pointing.region(scene, fact)])
        question, _ = pointing.ask(scene, fact, language, rng, plain=True)
        return {"question": question, "box": pointing.region(scene, fact)}
    plain_question, answer = phrases.ask(_choose(scene, Counter(), rng)[0], language, rng, plain=True)
    if ability == "thinking":
        return {"question": plain_question, "answer": answer}
    while True:
        offered = tools.offer(scene, rng.randrange(1, 4), language, rng)
        task = Task.choose(tools.fitting(offered, scene), scene, language, rng)
        if task.calls:  # a board without a defect has nothing to report
            break
    definitions = {"tools": [tool.definition for tool in offered]}
    if ability == "tools" and rng.random() < 0.3:
        return {"question": plain_question, "answer": answer} | definitions
    calls = [{"name": call.name, "arguments": call.arguments} for call in task.calls]
    asked = {"question": task.wording, "calls": calls} | definitions
    if ability == "tools":
        return asked
    results = [request.result for request in task.requests]
    return asked | {"results": results, "facts": [request.fact for request in task.requests]}


if __name__ == "__main__":
    main()
