"""Draws the fixed evaluation set: python -m serve_app.demo.evaluation --out benchmarks/evaluation.

A hundred pictures a job, from seeds that training never draws, each with two questions. The first
pass over the pictures asks one question each, so that a limited run still sees different pictures.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from random import Random

from serve_app.demo import phrases
from serve_app.demo.batches import EVALUATION_SEEDS, JOBS, worn_scene
from serve_app.demo.scenes import Fact, Language, Scene

PICTURES = 100
QUESTIONS_A_PICTURE = 2
# What the three jobs are about; every kind comes up in turn, so that none is rare.
ASKED = {
    "labels": ("tracking", "recipient", "phone", "address", "light", "model"),
    "boards": ("defect", "defect_place", "defect_kind", "defect_exists", "board_number"),
    "documents": ("number", "date", "party", "total", "stamp", "row_amount", "row_quantity", "row_price"),
}
_QUALITY = 62


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="benchmarks/evaluation", help="folder of the pictures and questions.jsonl")
    draw_set(Path(parser.parse_args().out))


def draw_set(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for place, job in enumerate(JOBS):
        asked_before: Counter[str] = Counter()
        rounds: list[list[str]] = [[] for _ in range(QUESTIONS_A_PICTURE)]
        for index in range(PICTURES):
            seed = EVALUATION_SEEDS[0] + place * 10_000 + index
            scene, rng = worn_scene(job, seed, 1.0), Random(seed)
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
    """Facts of different kinds, those first that have been asked least so far."""
    found = {fact.kind for fact in scene.facts}
    fitting = [kind for kind in ASKED[scene.job] if kind in found]
    chosen = []
    for kind in sorted(fitting, key=lambda kind: asked_before[kind])[:QUESTIONS_A_PICTURE]:
        asked_before[kind] += 1
        chosen.append(rng.choice([fact for fact in scene.facts if fact.kind == kind]))
    rng.shuffle(chosen)  # so that the first round, which limited runs take, has every kind
    return chosen


if __name__ == "__main__":
    main()
