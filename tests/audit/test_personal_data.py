"""Export, and deletion of a person's data while the chain stays valid."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import orjson
import pytest

from serve_app import cli
from serve_app.audit.chain import without_personal
from serve_app.audit.files import audit_files, lines_of, replace_in_file
from serve_app.audit.personal_data import Selection, delete_person, export
from serve_app.audit.verify import verify
from tests.audit.conftest import MakeWriter, write


def test_a_persons_data_is_deleted_and_the_chain_stays_valid(make_writer: MakeWriter, folder: Path):
    writer = make_writer()
    write(writer, "alice", "bob", "alice")
    write(make_writer(), "alice")
    assert delete_person(folder, "alice", "", make_writer(), now=1.0) == 3
    everything = b"".join(file.read_bytes() for file in audit_files(folder))
    assert b"alice" not in everything
    assert b"of bob" in everything
    found = verify(folder)
    assert (found.problems, found.deleted, found.requests) == ([], 3, 4)


def test_deletion_works_while_the_service_writes(make_writer: MakeWriter, folder: Path):
    writer = make_writer()
    write(writer, "alice", "bob")
    assert delete_person(folder, "alice", "", make_writer(), now=1.0) == 1
    write(writer, "alice")
    found = verify(folder)
    assert (found.problems, found.deleted, found.requests) == ([], 1, 3)


def test_only_the_tenants_lines_are_deleted(make_writer: MakeWriter, folder: Path):
    writer = make_writer()
    write(writer, "alice", tenant="a")
    write(writer, "alice", tenant="b")
    assert delete_person(folder, "alice", "b", make_writer(), now=1.0) == 1


def test_a_deletion_that_no_line_records_is_reported(make_writer: MakeWriter, folder: Path):
    write(make_writer(), "alice")
    (file,) = audit_files(folder)
    place, data = list(lines_of(file))[1]
    replace_in_file(file, place, without_personal(data))
    (problem,) = verify(folder).problems
    assert "deleted, but no line records that" in problem


def test_requests_are_exported_as_json_lines(make_writer: MakeWriter, folder: Path):
    writer = make_writer()
    write(writer, "alice", "bob")
    write(writer, "alice", time="2026-12-01T00:00:00.000+00:00")
    target = io.StringIO()
    assert export(folder, Selection(begin="2026-11-01", end="2026-12-01", caller="alice"), target, "jsonl") == 1
    assert orjson.loads(target.getvalue())["personal"]["question"] == "of alice"


def test_requests_are_exported_as_a_table_in_which_no_text_is_a_formula(make_writer: MakeWriter, folder: Path):
    writer = make_writer()
    writer.write("request", {"time": "t", "id": "one"}, {"caller": "=1+1", "question": "@x", "answer": ["-1"]}).result(
        5
    )
    target = io.StringIO()
    export(folder, Selection(), target, "csv")
    (row,) = csv.DictReader(io.StringIO(target.getvalue()))
    assert (row["caller"], row["question"], row["answer"]) == ("'=1+1", "'@x", '["-1"]')


def test_the_commands(make_writer: MakeWriter, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    writer = make_writer()
    write(writer, "alice", "bob")
    writer.close()
    assert cli.main(["audit", "verify", str(folder)]) == 0
    assert "1 files, 3 lines, 2 requests" in capsys.readouterr().out
    assert cli.main(["audit", "delete-person", str(folder), "--caller", "alice"]) == 0
    assert cli.main(["audit", "export", str(folder), "-o", str(tmp_path / "lines.csv")]) == 0
    assert "bob" in (tmp_path / "lines.csv").read_text()
    assert "alice" not in (tmp_path / "lines.csv").read_text()
    (first, _) = audit_files(folder)
    first.write_bytes(first.read_bytes().replace(b"bob", b"rob"))
    assert cli.main(["audit", "verify", str(folder)]) == 1
    assert "CHANGED" in capsys.readouterr().out
    assert cli.main(["audit", "verify", str(tmp_path / "none")]) == 2


def test_an_export_that_can_not_be_written_is_reported(
    make_writer: MakeWriter, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(make_writer(), "alice")
    target = folder / "nowhere" / "lines.csv"
    assert cli.main(["audit", "export", str(folder), "-o", str(target)]) == 1
    assert capsys.readouterr().out == (
        f"glm-serve audit: The lines can't be exported: [Errno 2] No such file or directory: '{target}'.\n"
    )
