"""Verification: what was changed, removed, moved or cut off is found, with its place."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.audit.files import audit_files
from serve_app.audit.verify import verify
from tests.audit.conftest import MakeWriter, write


@pytest.fixture
def two_files(make_writer: MakeWriter, folder: Path) -> list[Path]:
    """Two files of four and two requests; the second names the end of the first."""
    first = make_writer()
    write(first, "alice", "bob", "alice", "carol")
    first.close()
    second = make_writer()
    write(second, "alice", "bob")
    second.close()
    return audit_files(folder)


def test_an_untouched_folder_is_valid(two_files: list[Path], folder: Path):
    found = verify(folder)
    assert (found.problems, found.warnings) == ([], [])
    assert (found.files, found.lines, found.requests) == (2, 8, 6)


def test_a_changed_byte_is_found_wherever_it_is(two_files: list[Path], folder: Path):
    rng = random.Random(5)
    for file in two_files:
        original = file.read_bytes()
        for _ in range(100):
            place = rng.randrange(len(original))
            file.write_bytes(
                original[:place] + bytes([original[place] ^ (1 << rng.randrange(7))]) + original[place + 1 :]
            )
            found = verify(folder)
            assert found.problems or found.warnings, place  # a lost line feed at the end is a warning
        file.write_bytes(original)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: lines[:2] + lines[3:], "lines were removed, added or moved"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "lines were removed, added or moved"),
        (lambda lines: lines[1:], "lines were removed, added or moved"),
        (lambda lines: lines[:-1], "it was cut off"),
        (lambda lines: [*lines[:3], lines[3].replace(b'"42"', b'"43"'), *lines[4:]], "personal part does not fit"),
        (lambda lines: [*lines[:3], b"hello\n", *lines[4:]], "not a line"),
    ],
)
def test_what_was_done_to_a_file_is_reported(
    two_files: list[Path], folder: Path, change: Callable[[list[bytes]], list[bytes]], problem: str
):
    lines = two_files[0].read_bytes().splitlines(keepends=True)
    two_files[0].write_bytes(b"".join(change(lines)))
    (found, *_) = verify(folder).problems
    assert problem in found
    assert two_files[0].name in found


def test_a_missing_file_is_reported(two_files: list[Path], folder: Path):
    two_files[0].unlink()
    (problem,) = verify(folder).problems
    assert f"the file {two_files[0].name}, which it names, is missing" in problem


def test_a_file_that_was_written_anew_does_not_fit_the_later_ones(
    two_files: list[Path], folder: Path, make_writer: MakeWriter, tmp_path: Path
):
    forged = make_writer(folder=str(tmp_path / "forged"))
    write(forged, "alice", "mallory", "alice", "carol")
    (new,) = audit_files(tmp_path / "forged")
    two_files[0].write_bytes(new.read_bytes())
    (problem,) = verify(folder).problems
    assert "names another hash of this line" in problem


def test_a_last_line_that_is_not_complete_is_a_warning(two_files: list[Path], folder: Path):
    with two_files[1].open("ab") as stream:
        stream.write(b'{"seq":3,"prev":')
    found = verify(folder)
    assert found.problems == []
    assert "is not complete" in found.warnings[0]


def test_an_empty_folder_is_not_valid(tmp_path: Path):
    assert verify(tmp_path).problems == ["The folder has no audit files."]
