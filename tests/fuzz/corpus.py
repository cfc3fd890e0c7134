"""The kept cases, one line each: the smallest of each outcome that runs have found."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.fuzz.service import Case

FOLDER: Final = Path(__file__).parent / "corpus"
MAX_BYTES: Final = 300_000  # of one file


def load(kind: str) -> Iterator[Case]:
    """The cases of a kind, in the order of the lines of its file."""
    path = FOLDER / f"{kind}.jsonl"
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        kept = json.loads(line)
        yield Case(kept["path"], base64.b85decode(kept["body"]), kept["content_type"])


def save(kind: str, cases: list[Case]) -> None:
    """Writes the file of a kind, small cases first; what would make it larger than MAX_BYTES is left out."""
    lines: list[str] = []
    for case in sorted(cases, key=lambda case: (len(case.body), case.body)):
        body = base64.b85encode(case.body).decode()
        lines.append(json.dumps({"path": case.path, "content_type": case.content_type, "body": body}) + "\n")
    total = 0
    kept = [line for line in lines if (total := total + len(line)) <= MAX_BYTES]
    (FOLDER / f"{kind}.jsonl").write_text("".join(kept), "utf-8")
