"""The `glm-serve` command line: help, options as settings, quick to start; the report and exit status of `doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app import __version__, arguments, cli
from serve_app.settings import Settings
from tests.test_standalone import free_ports

HEAVY = {"ray", "torch", "transformers", "fastapi", "pydantic", "httpx", "PIL", "numpy"}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "glm-serve up" in shown
    assert "glm-serve doctor" in shown
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
    for _, setting, _, _ in arguments.UP_OPTIONS:
        section, _, field = setting.partition(".")
        annotation = sections[section].annotation
        assert annotation is not None
        assert field in annotation.model_fields, setting


@pytest.mark.parametrize("option", arguments.UP_OPTIONS, ids=lambda option: option[0])
def test_the_defaults_in_the_help_are_those_of_the_settings(option: tuple[str, str, str, str]):
    _, setting, _, what = option
    section, _, field = setting.partition(".")
    default = getattr(getattr(Settings(), section), field)
    if default not in ("", "auto"):
        assert f"default: {default}" in what


def test_a_wrong_setting_is_reported_by_its_name(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["up", "--quantization", "int3", "--port", "http"]) == 2
    shown = capsys.readouterr().err
    assert "model.quantization is 'int3'. Input should be 'none', 'fp8', 'nf4' or 'int8'." in shown
    assert "http.port is 'http'." in shown


def test_a_rule_for_a_whole_section_is_printed_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It followed "The setting bots is {'state': 'redis'}. Value error,"."""
    monkeypatch.setenv("GLM_BOTS__STATE", "redis")
    assert cli.main(["up"]) == 2
    assert capsys.readouterr().err == "glm-serve: bots.state is redis, so bots.redis_url must have its address.\n"


def test_a_list_that_is_not_json_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was "The setting  is {}. Value error, error parsing value …"."""
    monkeypatch.setenv("GLM_MODEL__ALIASES", "glm")
    assert cli.main(["up"]) == 2
    assert capsys.readouterr().err == (
        'glm-serve: A list or an object in the environment is not JSON (error parsing value for field "model" from'
        """ source "EnvSettingsSource"). Write it as in GLM_MODEL__ALIASES='["first", "second"]'.\n"""
    )


def test_a_temperature_that_json_can_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["ask", "--temperature", "nan", "How many?"])
    assert "argument --temperature: nan is not a finite number." in capsys.readouterr().err


def test_a_plan_that_can_not_be_written_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nowhere" / "values.yaml"
    plan = ["plan", "--model", "zai-org/GLM-4.6V-Flash", "--gpu", "L4", "--requests-per-second", "1"]
    assert cli.main([*plan, "-o", str(file)]) == 1
    assert capsys.readouterr().err == f"glm-serve: The plan can't be written to {file}: No such file or directory.\n"


def doctor(*options: str) -> int:
    ports = {name: str(section["port"]) for name, section in free_ports().items()}
    return cli.main(
        ["doctor", "--port", ports["http"], "--metrics-port", ports["metrics"], "--device", "cpu", *options]
    )


def test_the_doctor_finds_that_the_demo_model_can_be_served(capsys: pytest.CaptureFixture[str]):
    assert doctor() == 0
    shown = capsys.readouterr().out
    assert "\nSoftware\n  ✓ Python" in shown
    assert shown.splitlines()[-1].startswith("✓ Can serve glm-vision-demo")
    assert "Traceback" not in shown


def test_the_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert doctor("--model", str(tmp_path)) == 1
    shown = capsys.readouterr().out
    assert f"The model folder {tmp_path} has no config.json" in " ".join(shown.split())
    assert shown.splitlines()[-1].startswith("✗ Can't serve: 1 problem")


def test_the_doctors_object_is_json(capsys: pytest.CaptureFixture[str]):
    assert doctor("--json", "--quantization", "nf4", "--quantize-vision", "--slots", "2", "--context", "512") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["can_serve"] is True
    assert shown["problems"] == 0
    assert (shown["plan"]["quantization"], shown["plan"]["slots"], shown["plan"]["context_tokens"]) == ("nf4", 2, 512)
    assert {check["status"] for check in shown["checks"]} <= {"ok", "warning"}


def test_the_doctor_refuses_a_wrong_setting_as_up_does(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["doctor", "--slots", "none"]) == 2
    assert "engine.max_slots is 'none'." in capsys.readouterr().err
