"""The findings of the checks, and how they are shown: as lines for people, as one object for programs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TextIO

from serve_app.chinese.translate import in_terminal_language
from serve_app.errors import ServiceError

_SIGNS = {"ok": "✓", "warning": "!", "problem": "✗", "remedy": "→"}
_PLAIN_SIGNS = {"ok": "+", "warning": "!", "problem": "x", "remedy": ">"}  # for terminals that are not Unicode
_COLOURS = {"ok": "\033[32m", "warning": "\033[33m", "problem": "\033[31m"}
_NO_COLOUR = "\033[0m"
_WIDTH = 120  # where there is no terminal
_LEAST_WIDTH = 40  # of what stands beside the names


class Status(StrEnum):
    """Only a problem keeps the service from starting."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen and, for a warning or a problem, what to do."""

    name: str
    status: Status
    seen: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Findings under one title."""

    title: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """How the model would fit; bytes of GPU memory, or of RAM on a CPU."""

    device: str
    dtype: str
    quantization: str
    slots: int
    context_tokens: int
    weight_bytes: int
    cache_bytes: int  # keys and values of all slots or pages
    other_bytes: int  # picture cache, and on a GPU the workspace
    free_bytes: int
    pages: int = 0  # that the slots share; 0: each slot holds the whole context

    @property
    def needed_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes + self.other_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and the verdict."""

    version: str
    model: str
    source: str
    groups: tuple[Group, ...]
    fit: MemoryFit | None  # None: a check before it did not succeed
    files_only: bool = False  # the machine was not checked

    @property
    def can_serve(self) -> bool:
        return not self.count(Status.PROBLEM)

    def count(self, status: Status) -> int:
        return sum(finding.status == status for group in self.groups for finding in group.findings)

    @property
    def verdict(self) -> str:
        problems, warnings = self.count(Status.PROBLEM), self.count(Status.WARNING)
        if problems:
            return f"Can't serve: {counted(problems, 'problem')}{_also(warnings)}."
        if self.files_only:
            return f"The model's files that are here have no problem; this machine was not checked{_also(warnings)}."
        if self.fit is None:
            return f"Can serve, as far as can be checked without the model's files{_also(warnings)}."
        how = f"{self.fit.dtype} on {self.fit.device}"
        if self.fit.quantization != "none":
            how = f"{self.fit.quantization}, {how}"
        longest = f"{'up to ' if self.fit.pages else ''}{self.fit.context_tokens} tokens"
        slots = f"{counted(self.fit.slots, 'slot')} of {longest}"
        return f"Can serve {self.model}: {how}, with {slots}{_also(warnings)}."

    def as_object(self) -> dict[str, Any]:
        """The complete report as JSON types."""
        fit = self.fit and {**asdict(self.fit), "needed_bytes": self.fit.needed_bytes, "fits": self.fit.fits}
        return {
            "version": self.version,
            "model": self.model,
            "source": self.source,
            "can_serve": self.can_serve,
            "verdict": self.verdict,
            "problems": self.count(Status.PROBLEM),
            "warnings": self.count(Status.WARNING),
            "plan": fit,
            "checks": [
                {"group": group.title, **asdict(finding)} for group in self.groups for finding in group.findings
            ],
        }


class CheckEnded(Exception):
    """Ends a check early with this finding, because the rest of it has nothing to look at."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.seen)
        self.finding = finding


def ok(name: str, seen: str) -> Finding:
    return Finding(name, Status.OK, seen)


def warning(name: str, seen: str, remedy: str) -> Finding:
    return Finding(name, Status.WARNING, seen, remedy)


def problem(name: str, seen: str, remedy: str) -> Finding:
    return Finding(name, Status.PROBLEM, seen, remedy)


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check; if it raises, that is one more finding."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except CheckEnded as ended:
        findings.append(ended.finding)
    except ServiceError as error:  # `up` would end with this message
        findings.append(problem(name, str(error), "`glm-serve up` would end with this error: fix what it names."))
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        findings.append(
            problem(name, f"The check failed: {what}", "If no cause is found on this machine, report it as a bug.")
        )
    return findings


def sized(count: int) -> str:
    """Bytes as GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def show(report: Report, stream: TextIO) -> None:
    """Write the report as aligned lines, in colour if `stream` is a terminal."""
    signs = _SIGNS if _can_write(stream, "".join(_SIGNS.values())) else _PLAIN_SIGNS
    coloured = stream.isatty()
    width = shutil.get_terminal_size((_WIDTH, 24)).columns if coloured else _WIDTH
    names = max(len(finding.name) for group in report.groups for finding in group.findings)
    indent = " " * (names + 6)

    def sign(status: Status) -> str:
        return f"{_COLOURS[status]}{signs[status]}{_NO_COLOUR}" if coloured else signs[status]

    def wrapped(text: str) -> list[str]:
        columns = max(width - len(indent) - 2, _LEAST_WIDTH)
        return textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False)

    # Findings are English; a terminal that can't show Chinese gets no Chinese titles either.
    translate = in_terminal_language if _can_write(stream, "中文") else str
    lines = [f"glm-serve {report.version} doctor: {report.model}"]
    for group in report.groups:
        lines += ["", translate(group.title)]
        for finding in group.findings:
            first, *more = wrapped(finding.seen)
            lines.append(f"  {sign(finding.status)} {finding.name:<{names}}  {first}")
            lines += [f"{indent}{line}" for line in more]
            for index, line in enumerate(wrapped(finding.remedy)):
                lines.append(f"{indent}{'  ' if index else signs['remedy'] + ' '}{line}")
    lines += ["", f"{sign(Status.OK if report.can_serve else Status.PROBLEM)} {translate(report.verdict)}"]
    text = "\n".join(lines) + "\n"
    encoding = stream.encoding or "utf-8"  # a path may hold what the terminal can't show
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _also(warnings: int) -> str:
    return f" ({counted(warnings, 'warning')})" if warnings else ""


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
