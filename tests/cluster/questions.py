"""Questions of the evaluation set as requests; the set is also the tests' data."""

import base64
import json
from pathlib import Path
from typing import Any

EVALUATION = Path(__file__).parent.parent.parent / "benchmarks" / "evaluation"
JOBS = ("labels", "boards", "documents")


def questions(per_job: int) -> list[dict[str, Any]]:
    """The first questions of each job, one a picture, jobs in turn."""
    lines = (EVALUATION / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    first: dict[str, dict[str, Any]] = {}
    for line in lines:
        question = json.loads(line)
        first.setdefault(question["picture"], question)
    by_job = [[q for q in first.values() if q["job"] == job][:per_job] for job in JOBS]
    return [question for row in zip(*by_job, strict=True) for question in row]


def data_url(picture: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def chat_body(question: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A greedy request for at most 48 tokens, unless told otherwise."""
    picture = {"type": "image_url", "image_url": {"url": data_url(EVALUATION / question["picture"])}}
    content = [picture, {"type": "text", "text": question["question"]}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 48, "temperature": 0, **settings}
