"""Export of audit lines, and deletion of a person's data from them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import orjson

from serve_app.audit.chain import BrokenLine, decode_line, without_personal
from serve_app.audit.files import audit_files, lines_of, replace_in_file
from serve_app.audit.request_audit import iso_time
from serve_app.audit.writer import AuditWriter

RECORDED: Final = 500  # lines in one record of a deletion
CSV_COLUMNS: Final = (
    "time", "id", "request_id", "route", "tenant", "caller", "status", "outcome", "prompt_tokens", "image_tokens",
    "completion_tokens", "cached_tokens", "cache", "total_ms", "vram_bytes", "pictures", "question", "answer",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    """Which lines: by time (ISO 8601, from included, to excluded), caller and tenant; empty: all."""

    begin: str = ""
    end: str = ""
    caller: str = ""
    tenant: str = ""

    def has(self, line: dict[str, Any]) -> bool:
        personal = line.get("personal", {})
        time = line.get("time", "")
        return (
            (not self.begin or time >= self.begin)
            and (not self.end or time < self.end)
            and (not self.caller or personal.get("caller") == self.caller)
            and (not self.tenant or line.get("tenant") == self.tenant)
        )


def export(folder: Path, selection: Selection, target: TextIO, format: str) -> int:
    """Writes the selected requests as JSON lines or CSV; returns their number. Raises BrokenLine."""
    rows = csv.DictWriter(target, CSV_COLUMNS, extrasaction="ignore") if format == "csv" else None
    if rows is not None:
        rows.writeheader()
    number = 0
    for _, _, data in _complete_lines(folder):
        line, _ = decode_line(data)
        if line["kind"] != "request" or not selection.has(line):
            continue
        number += 1
        if rows is None:
            target.write(orjson.dumps(line).decode() + "\n")
        else:
            flat = {**line, **line.get("personal", {})}
            rows.writerow({name: _cell(value) for name, value in flat.items()})
    return number


def delete_person(folder: Path, caller: str, tenant: str, writer: AuditWriter, now: float) -> int:
    """Deletes the personal part of a caller's lines in place; returns their number.

    A record of the deletion, with the hashes of the lines, is written first. Writers may go on meanwhile.
    """
    selection = Selection(caller=caller, tenant=tenant)
    found: list[tuple[Path, int, bytes, str]] = []
    for file, place, data in _complete_lines(folder):
        try:
            line, head = decode_line(data)
        except BrokenLine:
            continue  # `verify` reports it
        if "personal" in line and selection.has(line):
            found.append((file, place, without_personal(data), head.hash))
    for start in range(0, len(found), RECORDED):
        part = found[start : start + RECORDED]
        writer.write("deletion", {"time": iso_time(now), "lines": [line_hash for *_, line_hash in part]}).result()
        for file, place, data, _ in part:
            replace_in_file(file, place, data)
    return len(found)


def _complete_lines(folder: Path) -> Iterator[tuple[Path, int, bytes]]:
    for file in audit_files(folder):
        for place, data in lines_of(file):
            if data.endswith(b"\n"):
                yield file, place, data


def _cell(value: Any) -> Any:
    """A cell of a spreadsheet, which must not begin a formula."""
    text = value if isinstance(value, (str, int, float)) else orjson.dumps(value).decode()
    return f"'{text}" if isinstance(text, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
