"""Findings become lines for people, one object for programs, and a verdict."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace

from serve_app.doctor.report import (
    CheckEnded,
    Finding,
    Group,
    MemoryFit,
    Report,
    Status,
    guarded,
    ok,
    problem,
    show,
    sized,
    warning,
)
from serve_app.errors import InvalidRequest
from tests.doctor.conftest import the_one

GIB = 2**30
FINE = ok("driver", "NVIDIA 580")
TIGHT = warning("memory", "only 3 slots fit", "Set --context 4096.")
BROKEN = problem("weights", "a shard is cut off", "Download it again.")
FIT = MemoryFit("cuda", "bfloat16", "nf4", 16, 8192, 8 * GIB, 5 * GIB, 2 * GIB, 20 * GIB)


def report(*findings: Finding, fit: MemoryFit | None = FIT) -> Report:
    return Report("0.1.0", "flash", "/models/flash", (Group("Machine", findings),), fit)


def shown(one: Report, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    show(one, stream)
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_warnings_do_not_keep_the_service_from_starting():
    assert report(FINE, TIGHT).can_serve
    assert not report(FINE, TIGHT, BROKEN).can_serve


def test_the_verdict_says_how_it_is_served():
    assert report(FINE).verdict == "Can serve flash: nf4, bfloat16 on cuda, with 16 slots of 8192 tokens."
    shared = report(FINE, fit=replace(FIT, pages=2049))
    assert shared.verdict == "Can serve flash: nf4, bfloat16 on cuda, with 16 slots of up to 8192 tokens."
    assert report(TIGHT).verdict.endswith("8192 tokens (1 warning).")


def test_the_verdict_counts_problems():
    assert report(BROKEN, BROKEN, TIGHT, fit=None).verdict == "Can't serve: 2 problems (1 warning)."


def test_the_verdict_admits_what_was_not_seen():
    assert (
        report(TIGHT, fit=None).verdict == "Can serve, as far as can be checked without the model's files (1 warning)."
    )


def test_lines_are_aligned_and_a_remedy_stands_under_its_finding():
    assert shown(report(FINE, BROKEN)).splitlines()[2:5] == [
        "Machine",
        "  ✓ driver   NVIDIA 580",
        "  ✗ weights  a shard is cut off",
    ]
    assert "\n             → Download it again.\n" in shown(report(FINE, BROKEN))


def test_a_long_remedy_is_wrapped_but_no_word_of_it_is_cut():
    command = "pip install " + "--force-reinstall-everything " * 8
    lines = shown(report(problem("torch", "old", command))).splitlines()
    assert max(map(len, lines)) <= 120
    assert " ".join(" ".join(lines).split()).count("--force-reinstall-everything") == 8


def test_there_are_no_colours_outside_a_terminal():
    assert "\033" not in shown(report(FINE, TIGHT, BROKEN))


def test_a_terminal_gets_colours():
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    show(report(BROKEN), terminal)
    assert "\033[31m✗\033[0m" in terminal.getvalue()


def test_a_terminal_that_is_not_unicode_gets_plain_signs():
    lines = shown(report(ok("folder", "/models/图"), BROKEN), encoding="ascii").splitlines()
    assert lines[3] == "  + folder   /models/\\u56fe"
    assert lines[4].startswith("  x weights")


def test_programs_get_one_object():
    shown = json.loads(json.dumps(report(FINE, BROKEN).as_object()))
    assert shown["can_serve"] is False
    assert shown["plan"]["needed_bytes"] == 15 * GIB
    assert shown["checks"][1] == {
        "group": "Machine",
        "name": "weights",
        "status": "problem",
        "seen": "a shard is cut off",
        "remedy": "Download it again.",
    }


def test_a_check_that_fails_is_a_finding_after_those_it_made():
    def check() -> Iterator[Finding]:
        yield FINE
        raise OSError("no\nsuch thing")

    first, second = guarded("files", check)
    assert first == FINE
    assert (second.name, second.status) == ("files", Status.PROBLEM)
    assert second.seen == "The check failed: OSError: no such thing"


def test_a_service_error_is_reported_with_its_own_message():
    def check() -> Iterator[Finding]:
        yield from ()
        raise InvalidRequest("the model folder /x does not exist", param="model.path")

    finding = the_one(guarded("folder", check))
    assert finding.seen == "the model folder /x does not exist"
    assert finding.status == Status.PROBLEM


def test_a_check_may_end_with_its_last_finding():
    def check() -> Iterator[Finding]:
        yield FINE
        raise CheckEnded(BROKEN)

    assert guarded("weights", check) == [FINE, BROKEN]


def test_sizes_have_the_unit_that_suits_them():
    assert sized(31 * 2**20) == "31 MiB"
    assert sized(int(7.9 * GIB)) == "7.9 GiB"
