"""The writer: files, links between them, failures of the disk, retention."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import orjson
import pytest

from serve_app.audit.files import audit_files
from serve_app.audit.verify import verify
from serve_app.errors import AuditUnavailable
from tests.audit.conftest import MakeWriter, write
from tests.fakes import FakeMeter
from tests.waiting import wait_until


def kinds(file: Path) -> list[str]:
    return [orjson.loads(line)["kind"] for line in file.read_bytes().splitlines()]


def test_a_file_begins_with_a_genesis_line_and_only_its_owner_can_read_it(make_writer: MakeWriter, folder: Path):
    write(make_writer(), "alice", "bob")
    (file,) = audit_files(folder)
    assert kinds(file) == ["genesis", "request", "request"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_each_start_and_each_replica_writes_a_file_that_names_the_ends_of_the_others(
    make_writer: MakeWriter, folder: Path
):
    first, second = make_writer(), make_writer()
    write(first, "alice")
    write(second, "bob")
    write(first, "alice")
    write(make_writer(), "carol")
    files = audit_files(folder)
    assert len(files) == 3
    heads = orjson.loads(files[2].read_bytes().splitlines()[0])["heads"]
    assert {name: head["seq"] for name, head in heads.items()} == {files[0].name: 2, files[1].name: 1}
    found = verify(folder)
    assert (found.problems, found.requests) == ([], 4)


def test_a_file_that_is_full_is_followed_by_another_one(make_writer: MakeWriter, folder: Path):
    writer = make_writer(max_file_mib=1)
    for _ in range(30):
        write(writer, "alice", padding="x" * 100_000)
    files = audit_files(folder)
    assert len(files) == 3
    assert all(file.stat().st_size <= 2**20 + 101_000 for file in files)
    assert verify(folder).problems == []


def test_lines_of_many_threads_are_all_there_once(make_writer: MakeWriter, folder: Path):
    writer = make_writer()
    futures = [writer.write("request", {"number": number}, {"caller": "a"}) for number in range(2000)]
    for future in futures:
        future.result(10)
    (file,) = audit_files(folder)
    lines = [orjson.loads(line) for line in file.read_bytes().splitlines()[1:]]
    assert [line["number"] for line in lines] == list(range(2000))
    assert verify(folder).problems == []


FULL_DISK = """
import resource, sys
from serve_app.audit.writer import AuditWriter
from serve_app.errors import AuditUnavailable
from serve_app.metrics import SilentMeter
from serve_app.settings_audit import AuditSettings
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))  # as a full disk: writes stop in a line
writer = AuditWriter(AuditSettings(mode="required", folder=sys.argv[1]), SilentMeter())
written = failed = 0
for number in range(100):
    try:
        writer.write("request", {"number": number, "padding": "x" * 1000}, {"caller": "a"}).result(5)
        written += 1
    except AuditUnavailable:
        failed += 1
        if failed == 1:
            assert writer.failing
assert 10 < written < 20 and failed > 70, (written, failed)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))  # space again
writer.write("request", {"number": 100}, {"caller": "a"}).result(5)
assert not writer.failing
writer.close()
print(written + 1, failed)
"""


def test_a_full_disk_fails_lines_without_damage_to_the_file_and_is_recorded_when_it_is_over(folder: Path):
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(folder)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    written, failed = map(int, ended.stdout.split())
    found = verify(folder)
    assert (found.problems, found.warnings, found.requests, found.lost) == ([], [], written, failed)


KILLED = """
import sys
from serve_app.audit.writer import AuditWriter
from serve_app.metrics import SilentMeter
from serve_app.settings_audit import AuditSettings
writer = AuditWriter(AuditSettings(mode="required", folder=sys.argv[1], fsync="never"), SilentMeter())
number = 0
while True:
    writer.write("request", {"number": number}, {"caller": "a"}).result(5)
    print(number, flush=True)
    number += 1
"""


def test_every_line_that_was_confirmed_is_there_after_kills_and_the_chain_is_valid(folder: Path):
    confirmed = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        process.kill()
        confirmed += 50 + len(process.stdout.read().splitlines())
        process.wait()
    found = verify(folder)
    assert found.problems == []
    assert confirmed <= found.requests <= confirmed + 4
    assert found.files == 4


def test_a_folder_that_can_not_be_made_fails_each_line_until_it_can(make_writer: MakeWriter, folder: Path):
    folder.write_text("a file")
    meter = FakeMeter()
    writer = make_writer(meter)
    with pytest.raises(AuditUnavailable, match="can't be written"):
        writer.write("request", {}).result(5)
    assert writer.failing
    assert meter.counts["glm_audit_failures_total",] >= 1
    folder.unlink()
    writer.write("request", {}).result(5)
    assert not writer.failing


def test_files_are_removed_after_their_time_and_a_line_says_so(make_writer: MakeWriter, folder: Path):
    write(make_writer(), "alice")
    (old,) = audit_files(folder)
    write(make_writer(), "bob")  # its genesis line names the old file
    past = time.time() - 91 * 86400
    os.utime(old, (past, past))
    writer = make_writer(retention_days=90)
    write(writer, "carol")
    writer.close()
    assert not old.exists()
    found = verify(folder)
    assert (found.problems, found.requests) == ([], 2)


def test_nothing_is_removed_with_a_retention_of_0(make_writer: MakeWriter, folder: Path):
    write(make_writer(), "alice")
    (old,) = audit_files(folder)
    os.utime(old, (1, 1))
    write(make_writer(retention_days=0), "bob")
    assert old.exists()


def test_a_line_that_can_not_be_written_as_json_fails_alone(make_writer: MakeWriter, folder: Path):
    """It ended the thread, after which no line was written any more."""
    writer = make_writer()
    bad = writer.write("request", {"request_id": "half \ud800"})
    good = writer.write("request", {"request_id": "r2"})
    with pytest.raises(AuditUnavailable):
        bad.result(10)
    good.result(10)
    assert verify(folder).requests == 1


def test_no_request_waits_for_the_disk_unless_each_line_is_forced_to_it(
    make_writer: MakeWriter, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    forced, is_slow = threading.Event(), threading.Event()

    def slow_fsync(_: int) -> None:
        is_slow.set()
        assert forced.wait(10)

    monkeypatch.setattr("serve_app.audit.writer.RETRY_S", 0.0)  # due after each batch
    monkeypatch.setattr("os.fsync", slow_fsync)
    written = make_writer(fsync="interval").write("request", {})
    assert is_slow.wait(10)
    assert written.done()
    forced.set()


def test_a_disk_that_fails_later_is_a_failure_of_the_log_and_not_of_the_lines_that_are_in_the_file(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch
):
    def failing_fsync(_: int) -> None:
        raise OSError("the disk failed")

    monkeypatch.setattr("serve_app.audit.writer.RETRY_S", 0.001)
    monkeypatch.setattr("os.fsync", failing_fsync)
    meter = FakeMeter()
    writer = make_writer(meter, fsync="interval")
    time.sleep(0.01)
    writer.write("request", {}).result(5)
    wait_until(lambda: meter.counts["glm_audit_failures_total",] > 0, 5, "no failure is counted", 0.01)
    monkeypatch.undo()
