"""The file of API keys, and `glm-serve keys`, which writes it."""

from __future__ import annotations

import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app import cli
from serve_app.access.api_keys import CHECK_S, ApiKeys
from serve_app.access.key_file import KeyFile, LimitEntry, add_key, hash_key, new_key, read_key_file
from serve_app.caller import CallerLimits
from serve_app.errors import InvalidRequest
from tests.access.clock import Clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def added(file: Path, caller: str = "shop", **more: object) -> str:
    key, entry = new_key(caller, **more)  # type: ignore[arg-type]
    add_key(file, entry)
    return key


def test_the_file_has_the_hash_of_a_key_and_not_the_key(file: Path) -> None:
    key = added(file)
    assert len(key) > 40
    assert key not in file.read_text()
    assert hash_key(key) in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_changed_file_keeps_its_mode(file: Path) -> None:
    added(file)
    file.chmod(0o640)
    added(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_keys_that_are_added_at_the_same_time_are_all_kept(file: Path) -> None:
    threads = [threading.Thread(target=added, args=(file, f"caller-{number}")) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_key_file(file).keys) == 20


def test_a_key_is_found_with_its_entry_and_any_other_is_not(file: Path) -> None:
    key = added(file, tenant="acme", scopes=("inference", "metrics"), limits=LimitEntry(concurrent_requests=3))
    keys = ApiKeys(file, Clock())
    entry = keys.find(key)
    assert entry is not None
    assert (entry.caller, entry.tenant, entry.scopes) == ("shop", "acme", ("inference", "metrics"))
    assert entry.limits.over(CallerLimits(5.0, 6, 7, 8)) == CallerLimits(5.0, 3, 7, 8)
    for wrong in ("", key[:-1], key + "x", key.swapcase(), "glm-", "\udcff", hash_key(key)):
        assert keys.find(wrong) is None


def test_a_limit_of_zero_in_the_file_removes_that_of_the_settings(file: Path) -> None:
    assert LimitEntry(tokens_per_minute=0).over(CallerLimits(tokens_per_minute=7)) == CallerLimits()


def test_a_key_expires(file: Path) -> None:
    now = datetime.now(UTC)
    key = added(file, expires=now + timedelta(hours=1))
    entry = ApiKeys(file, Clock()).find(key)
    assert entry is not None
    assert not entry.is_expired(now.timestamp())
    assert entry.is_expired((now + timedelta(hours=1)).timestamp())


def test_a_changed_file_is_read_again(file: Path) -> None:
    clock, first = Clock(), added(file)
    keys = ApiKeys(file, clock)
    assert keys.find(first)
    second = added(file)
    assert cli.main(["keys", "revoke", hash_key(first)[:12], "--file", str(file)]) == 0
    clock.now += CHECK_S
    assert keys.find(second)
    assert keys.find(first) is None


def test_a_file_that_becomes_invalid_leaves_the_last_valid_one_in_force(file: Path) -> None:
    clock, key = Clock(), added(file)
    keys = ApiKeys(file, clock)
    assert keys.find(key)
    for content in ("{", '{"keys": [{"caller": "x", "sha256": "short"}]}', '{"surprise": 1}'):
        file.write_text(content)
        clock.now += CHECK_S
        assert keys.find(key), content


def test_without_its_file_no_key_is_valid_and_it_is_used_as_soon_as_it_exists(file: Path) -> None:
    clock = Clock()
    keys = ApiKeys(file, clock)
    key, entry = new_key("shop")
    assert keys.find(key) is None
    add_key(file, entry)
    clock.now += CHECK_S
    assert keys.find(key)
    os.remove(file)
    clock.now += CHECK_S
    assert keys.find(key) is None


def test_an_error_of_the_file_names_the_place(file: Path) -> None:
    file.write_text('{"keys": [{"caller": "two words", "sha256": "0"}]}')
    with pytest.raises(InvalidRequest, match=r"is not valid: keys\.0\.caller: String should match pattern"):
        read_key_file(file)


def test_the_command_prints_a_key_once_lists_it_without_the_key_and_revokes_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--file", str(file)]
    command = ["keys", "add", "shop", "--tenant", "acme", "--scope", "metrics", "--lane", "batch"]
    assert cli.main([*command, "--expires-in-days", "30", "--tokens-per-minute", "5000", *options]) == 0
    key = capsys.readouterr().out.strip()
    (entry,) = read_key_file(file).keys
    assert entry.sha256 == hash_key(key)
    assert (entry.tenant, entry.scopes, entry.lane) == ("acme", ("metrics",), "batch")
    assert entry.limits == LimitEntry(tokens_per_minute=5000)
    assert entry.expires is not None
    assert timedelta(days=29) < entry.expires - datetime.now(UTC) <= timedelta(days=30)

    assert cli.main(["keys", "list", *options]) == 0
    shown = capsys.readouterr().out
    assert entry.id in shown
    assert "acme" in shown
    assert key not in shown
    assert entry.sha256 not in shown

    assert cli.main(["keys", "revoke", "shop", *options]) == 0
    assert read_key_file(file) == KeyFile()


def test_the_command_says_what_is_wrong(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "list"]) == 1
    assert "Give it as --file FILE, or set GLM_ACCESS__KEYS_FILE." in capsys.readouterr().err
    assert cli.main(["keys", "list", "--file", str(file)]) == 1
    assert capsys.readouterr().err == (
        f"glm-serve: The file of keys {file} can't be read or written: No such file or directory.\n"
    )
    assert cli.main(["keys", "add", "two words", "--file", str(file)]) == 1
    assert "caller is 'two words'." in capsys.readouterr().err
    added(file)
    assert cli.main(["keys", "revoke", "nobody", "--file", str(file)]) == 1
    assert "has no key with the id or caller 'nobody'." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--requests-per-second", "-1", "--requests-per-second is -1.0. Input should be greater than or equal to 0."),
        ("--requests-per-second", "inf", "--requests-per-second is inf. Input should be a finite number."),
        ("--requests-per-second", "nan", "--requests-per-second is nan. Input should be a finite number."),
        ("--tokens-per-minute", "-5", "--tokens-per-minute is -5. Input should be greater than or equal to 0."),
        ("--expires-in-days", "1e10", "--expires-in-days is 1e+10, which gives no date of the years 1 to 9999."),
        ("--expires-in-days", "4e6", "--expires-in-days is 4e+06, which gives no date of the years 1 to 9999."),
        ("--expires-in-days", "nan", "--expires-in-days is nan, which gives no date of the years 1 to 9999."),
    ],
)
def test_a_number_that_no_key_can_have_is_refused_by_the_command(
    file: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, text: str
) -> None:
    """These ended in a traceback; an infinite limit was written, and made every request of the caller a 500."""
    assert cli.main(["keys", "add", "shop", "--file", str(file), f"{option}={value}"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.startswith(f"glm-serve: {text}")) == ("", True), said.err
    assert not file.exists()


def test_an_infinite_limit_in_the_file_is_an_error_that_names_the_place(file: Path) -> None:
    added(file)
    file.write_text(file.read_text().replace('"caller"', '"limits": {"requests_per_second": Infinity},\n"caller"'))
    with pytest.raises(InvalidRequest, match=r"keys\.0\.limits\.requests_per_second: Input should be a finite number"):
        read_key_file(file)


def test_a_wrong_setting_is_reported_by_the_command_as_by_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("GLM_ACCESS__KEYS_FILE", str(file))
    monkeypatch.setenv("GLM_HTTP__PORT", "abc")
    assert cli.main(["keys", "list"]) == 2
    assert capsys.readouterr().err.startswith("glm-serve: The setting http.port is 'abc'. Input should be a valid int")


def test_the_command_takes_the_file_of_the_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    added(file)
    monkeypatch.setenv("GLM_ACCESS__KEYS_FILE", str(file))
    assert cli.main(["keys", "list"]) == 0
    assert "shop" in capsys.readouterr().out
