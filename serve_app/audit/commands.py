"""The commands `glm-serve audit verify | export | delete-person`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final, TextIO

from serve_app.audit.chain import BrokenLine
from serve_app.audit.personal_data import Selection, delete_person, export
from serve_app.audit.verify import verify
from serve_app.audit.writer import AuditWriter
from serve_app.metrics import SilentMeter
from serve_app.settings_audit import AuditSettings

SHOWN: Final = 20  # problems


def run(options: argparse.Namespace, output: TextIO) -> int:
    """Runs the command; returns the exit status."""
    if not options.folder.is_dir():
        output.write(f"glm-serve audit: {options.folder} is not a folder.\n")
        return 2
    commands = {"verify": _verify, "export": _export, "delete-person": _delete_person}
    return commands[options.audit_command](options, output)


def _verify(options: argparse.Namespace, output: TextIO) -> int:
    found = verify(options.folder)
    for warning in found.warnings:
        output.write(f"warning: {warning}\n")
    for problem in found.problems[:SHOWN]:
        output.write(f"problem: {problem}\n")
    if len(found.problems) > SHOWN:
        output.write(f"problem: There are {len(found.problems) - SHOWN} more.\n")
    output.write(
        f"{found.files} files, {found.lines} lines, {found.requests} requests, {found.deleted} lines without personal"
        f" data, {found.lost} lines lost by failures of the disk.\n{'CHANGED' if found.problems else 'Valid'}.\n"
    )
    return 1 if found.problems else 0


def _export(options: argparse.Namespace, output: TextIO) -> int:
    selection = Selection(options.begin, options.end, options.caller, options.tenant)
    try:
        if options.output is None:
            export(options.folder, selection, sys.stdout, "jsonl")
            return 0
        with Path(options.output).open("w", encoding="utf-8", newline="") as target:
            number = export(options.folder, selection, target, "csv" if options.output.endswith(".csv") else "jsonl")
    except BrokenLine as error:
        output.write(f"glm-serve audit: A line can't be exported. {error} Run `glm-serve audit verify`.\n")
        return 1
    except OSError as error:
        output.write(f"glm-serve audit: The lines can't be exported: {error}.\n")
        return 1
    output.write(f"{number} requests.\n")
    return 0


def _delete_person(options: argparse.Namespace, output: TextIO) -> int:
    settings: dict[str, Any] = {
        "mode": "required",
        "folder": str(options.folder),
        "fsync": "always",
        "retention_days": 0,
    }
    writer = AuditWriter(AuditSettings(**settings), SilentMeter())
    try:
        number = delete_person(options.folder, options.caller, options.tenant, writer, time.time())
    finally:
        writer.close()
    output.write(f"The personal data of {number} lines was deleted.\n")
    return 0
