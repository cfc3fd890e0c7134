"""The `glm-serve` command line: help, options as settings, quick to start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_app import __version__, cli
from serve_app.settings import Settings

HEAVY = {"ray", "torch", "transformers", "fastapi", "pydantic", "httpx", "PIL", "numpy"}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "glm-serve up" in shown
    assert "glm-serve ask" in shown


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"glm-serve {__version__}\n"


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, serve_app.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)


def test_every_option_of_up_is_a_setting():
    sections = Settings.model_fields
    for _, setting, _, _ in cli.UP_OPTIONS:
        section, _, field = setting.partition(".")
        annotation = sections[section].annotation
        assert annotation is not None
        assert field in annotation.model_fields, setting


@pytest.mark.parametrize("option", cli.UP_OPTIONS, ids=lambda option: option[0])
def test_the_defaults_told_are_the_settings_own(option: tuple[str, str, str, str]):
    _, setting, _, what = option
    section, _, field = setting.partition(".")
    default = getattr(getattr(Settings(), section), field)
    if default not in ("", "auto"):
        assert f"default: {default}" in what


def test_a_wrong_setting_is_told_by_its_name(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["up", "--quantization", "int3", "--port", "http"]) == 2
    told = capsys.readouterr().err
    assert "model.quantization = 'int3': Input should be 'none', 'nf4' or 'int8'" in told
    assert "http.port = 'http'" in told


def test_a_wrong_variable_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("GLM_ENGINE__MAX_SLTS", "4")
    assert cli.main(["up"]) == 2
    assert "engine.max_slts" in capsys.readouterr().err
