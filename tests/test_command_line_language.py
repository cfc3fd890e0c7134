"""`glm-serve` in Chinese where the terminal is; values, options and answers stay."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from serve_app import cli
from serve_app.doctor.report import Group, Report, ok, problem, show


@pytest.fixture(autouse=True)
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")


def test_ask_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "label.png"]) == 1
    assert capsys.readouterr().err.startswith("glm-serve：缺少问题：最后一个参数 label.png 是图片。")


def test_ask_says_that_no_service_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "--url", "http://127.0.0.1:9", "Hello"]) == 1
    assert capsys.readouterr().err == "glm-serve：http://127.0.0.1:9 没有服务响应。请用 `glm-serve up` 启动。\n"


def test_a_misspelt_setting_is_named_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLM_HTTP__PROT", "8000")
    assert cli.main(["up"]) == 2
    assert capsys.readouterr().err == "glm-serve：环境变量 GLM_HTTP__PROT 不是设置。是不是 GLM_HTTP__PORT？\n"


def test_up_refuses_an_open_address_in_words_that_keep_the_options(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert cli.main(["up", "--host", "0.0.0.0"]) == 1
    said = capfd.readouterr().out
    assert "glm-serve：其他机器可以访问 0.0.0.0，但没有身份验证" in said
    assert "`glm-serve keys add NAME --file keys.json`" in said


def report(stream: io.TextIOBase) -> None:
    groups = (Group("Software", (ok("ray", "2.60.0"), problem("torch", "is not installed", "Install it."))),)
    show(Report("0.1.0", "demo", "demo", groups, None), stream)  # type: ignore[arg-type]


def test_doctor_has_chinese_titles_and_result_with_english_findings() -> None:
    stream = io.StringIO()
    report(stream)
    assert "\n软件\n" in stream.getvalue()
    assert "is not installed" in stream.getvalue()
    assert "不能运行：1 个问题。" in stream.getvalue()


def test_doctor_stays_english_where_the_terminal_can_not_show_chinese() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    report(stream)
    stream.seek(0)
    assert "\nSoftware\n" in stream.read()


def test_other_languages_get_english(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert cli.main(["ask", "label.png"]) == 1
    assert capsys.readouterr().err.startswith("glm-serve: The question is missing")
