"""Arguments of `glm-serve audit`; the commands are in audit/commands.py, which takes longer to import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

AUDIT_DESCRIPTION: Final = """\
Work with the files of the audit log (docs/audit.md).

  glm-serve audit verify FOLDER                                  check every line and the links between files
  glm-serve audit export FOLDER --from 2026-11-01 -o lines.csv   copy lines of requests, as JSON lines or CSV
  glm-serve audit delete-person FOLDER --caller alice            delete who asked, what was asked and answered

The service may run meanwhile. The exit status of verify is 1 if something was changed.
"""


def add_audit_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="audit_command", required=True)
    verifying = commands.add_parser("verify", help="check every line and the links between files")
    exporting = commands.add_parser("export", help="copy lines of requests, as JSON lines or CSV")
    exporting.add_argument("--from", dest="begin", default="", metavar="TIME", help="from this time, UTC (2026-11-01)")
    exporting.add_argument("--to", dest="end", default="", metavar="TIME", help="before this time, UTC")
    exporting.add_argument("-o", "--output", metavar="FILE", help="write to this file; .csv: as a table")
    deleting = commands.add_parser("delete-person", help="delete who asked, what was asked and answered")
    for command in (verifying, exporting, deleting):
        command.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of audit.folder")
    for command in (exporting, deleting):
        required = command is deleting
        command.add_argument("--caller", default="", required=required, metavar="ID", help="lines of this caller")
        command.add_argument("--tenant", default="", metavar="TENANT", help="only lines of this tenant")
