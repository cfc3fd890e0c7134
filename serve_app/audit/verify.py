"""Verifies an audit folder: every hash, the links between files, and the records of what was deleted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve_app.audit.chain import DELETED, BrokenLine, Head, decode_line
from serve_app.audit.files import audit_files, lines_of


@dataclass
class Verification:
    """What was found; the folder is valid if there is no problem."""

    files: int = 0
    lines: int = 0
    requests: int = 0
    deleted: int = 0  # lines whose personal part was deleted
    lost: int = 0  # lines that could not be written, as the writers reported
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def verify(folder: Path) -> Verification:
    """Reads every line of the folder."""
    return _Verifier(folder).run()


class _Verifier:
    def __init__(self, folder: Path) -> None:
        self._files = audit_files(folder)
        self._found = Verification(files=len(self._files))
        self._links: dict[str, list[tuple[str, Head]]] = defaultdict(list)  # file -> (who names it, its head then)
        self._removed: set[str] = set()  # files that a line says were removed
        self._deletions: set[str] = set()  # hashes of lines that a line says were deleted
        self._deleted: dict[str, str] = {}  # hash -> place of a line without its personal part

    def run(self) -> Verification:
        found = self._found
        if not self._files:
            found.problems.append("The folder has no audit files.")
        for file in self._files:
            self._read_links(file)
        for file in self._files:
            self._verify_file(file)
        names = {file.name for file in self._files}
        for name, links in self._links.items():
            if name not in names and name not in self._removed:
                found.problems.append(f"{links[0][0]}: the file {name}, which it names, is missing.")
        for line_hash, place in self._deleted.items():
            if line_hash not in self._deletions:
                found.problems.append(f"{place}: its personal part was deleted, but no line records that.")
        return found

    def _read_links(self, file: Path) -> None:
        for _, data in lines_of(file):
            try:
                line, _ = decode_line(data)
                for name, head in line.get("heads", {}).items():
                    self._links[name].append((file.name, Head(head["seq"], head["hash"])))
            except (BrokenLine, KeyError, TypeError, AttributeError):
                pass  # reported by _verify_file
            return

    def _verify_file(self, file: Path) -> None:
        found = self._found
        linked = {head.seq: (by, head.hash) for by, head in self._links.get(file.name, ())}
        expected, prev = 0, ""
        for number, (_, data) in enumerate(lines_of(file), 1):
            place = f"{file.name}:{number}"
            if not data.endswith(b"\n"):
                found.warnings.append(f"{place}: the last line is not complete; its writer was killed.")
                break
            try:
                line, head = decode_line(data)
                self._check_place(line, head, expected, prev)
            except BrokenLine as error:
                found.problems.append(f"{place}: {error}")
                return
            if head.seq in linked and linked[head.seq][1] != head.hash:
                found.problems.append(f"{place}: {linked[head.seq][0]} names another hash of this line.")
            self._note(line, head, place)
            expected, prev = head.seq + 1, head.hash
        for seq, (by, _) in linked.items():
            if seq >= expected:
                found.problems.append(f"{file.name}: it ends before line {seq + 1}, which {by} names: it was cut off.")

    def _check_place(self, line: dict[str, Any], head: Head, expected: int, prev: str) -> None:
        if head.seq != expected:
            raise BrokenLine(f"Its number is {head.seq} instead of {expected}: lines were removed, added or moved.")
        if expected == 0 and line["kind"] != "genesis":
            raise BrokenLine("The file does not begin with a genesis line.")
        if expected > 0 and line["prev"] != prev:
            raise BrokenLine("It does not follow the line before it.")

    def _note(self, line: dict[str, Any], head: Head, place: str) -> None:
        found = self._found
        found.lines += 1
        if line.get("personal") == DELETED:
            found.deleted += 1
            self._deleted[head.hash] = place
        match line["kind"]:
            case "request":
                found.requests += 1
            case "removed":
                self._removed.add(line["file"])
            case "deletion":
                self._deletions.update(line["lines"])
            case "resumed":
                found.lost += line["lines_lost"]
