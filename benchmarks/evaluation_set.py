"""The fixed evaluation set (evaluation/): its questions, chat requests made from them, comparison of answers."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVALUATION = Path(__file__).parent / "evaluation"
_HALF_WIDTH = str.maketrans({"，": ",", "：": ":", "。": ".", "；": ";", "（": "(", "）": ")"})


@dataclass(frozen=True)
class Question:
    """One line of questions.jsonl; `picture` is a file name in the folder, `answer` the expected answer."""

    picture: str
    job: str  # labels, boards, documents
    kind: str
    language: str  # zh, en
    question: str
    answer: str


def load_questions(limit: int | None = None) -> list[Question]:
    """The first `limit` questions of each job; all of them without a limit."""
    taken: dict[str, int] = defaultdict(int)
    questions = []
    for line in (EVALUATION / "questions.jsonl").read_text("utf-8").splitlines():
        question = Question(**json.loads(line))
        taken[question.job] += 1
        if limit is None or taken[question.job] <= limit:
            questions.append(question)
    return questions


def one_question_per_picture() -> list[Question]:
    """The first question about every picture, the jobs in turn."""
    first: dict[str, Question] = {}
    for question in load_questions():
        first.setdefault(question.picture, question)
    by_job: dict[str, list[Question]] = defaultdict(list)
    for question in first.values():
        by_job[question.job].append(question)
    return [question for row in zip(*by_job.values(), strict=False) for question in row]


def chat_request(picture: str, question: str, model: str, max_tokens: int) -> dict[str, Any]:
    """A greedy chat request: one picture of the set, then the question."""
    content = [
        {"type": "image_url", "image_url": {"url": data_url((EVALUATION / picture).read_bytes())}},
        {"type": "text", "text": question},
    ]
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


def data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def normalize(answer: str) -> str:
    """The answer without spaces and without a final full stop; full-width punctuation becomes half-width."""
    return "".join(answer.translate(_HALF_WIDTH).split()).rstrip(".")
