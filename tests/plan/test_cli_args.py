"""`glm-serve plan` from the command line: checks of arguments, the values file, the summary."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serve_app import cli
from serve_app.settings import DEMO_MODEL

ASKED = ["plan", "--model", "zai-org/GLM-4.6V-Flash", "--requests-per-second", "1"]
OTHER = ["--gpu-memory-gib", "24", "--gpu-bandwidth-gb-s", "900", "--gpu-tflops", "120", "--gpu-sms", "80"]


def standard_error(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert not printed.out
    return printed.err


def test_the_file_goes_to_standard_output_and_the_summary_to_standard_error(capsys: pytest.CaptureFixture[str]):
    assert cli.main([*ASKED, "--gpu", "L4"]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["settings"]["model"]["path"] == "zai-org/GLM-4.6V-Flash"
    assert "--gpu L4" in printed.out
    assert printed.err.startswith("zai-org/GLM-4.6V-Flash: ")


def test_the_file_goes_to_the_output_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "values.yaml"
    assert cli.main([*ASKED, "--gpu", "L4", "-o", str(file)]) == 0
    assert yaml.safe_load(file.read_text())["stages"]["engine"]["replicas"]["min"] >= 1
    assert "; one GPU answers 0.63 requests/s, 2 of them 1.26 (estimated)" in standard_error(capsys)


def test_a_plan_is_not_changed_by_this_machines_own_settings(capsys: pytest.CaptureFixture[str]):
    asked = [*ASKED, "--gpu", "L4"]
    command = [sys.executable, "-m", "serve_app", *asked]
    environment = {**os.environ, "GLM_ENGINE__PREFILL_TOKENS": "64", "GLM_PREPROCESS__MAX_IMAGE_TOKENS": "100"}
    elsewhere = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert cli.main(asked) == 0
    assert elsewhere.stdout == capsys.readouterr().out


def test_a_card_can_be_described(capsys: pytest.CaptureFixture[str]):
    assert cli.main([*ASKED, *OTHER]) == 0
    assert "(as given: 900 GB/s, 120 TFLOP/s)" in capsys.readouterr().out.replace("\n# ", " ")


def test_a_described_card_has_fp8_from_the_compute_capability_on_that_is_given(capsys: pytest.CaptureFixture[str]):
    for capability, kind in (([], "nf4"), (["--gpu-capability", "8.9"], "fp8")):
        assert cli.main([*ASKED, *OTHER, *capability]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["settings"]["model"]["quantization"] == kind


def test_a_folder_is_planned_by_its_own_config_and_served_from_the_volume(capsys: pytest.CaptureFixture[str]):
    asked = ["plan", "--model", str(DEMO_MODEL), "--requests-per-second", "5", "--gpu", "T4"]
    assert cli.main(asked) == 0
    assert yaml.safe_load(capsys.readouterr().out)["settings"]["model"]["path"] == "/models/model"


def test_several_pictures_are_one_request(capsys: pytest.CaptureFixture[str]):
    asked = [*ASKED, "--gpu", "H200", "--picture", "640x480", "--picture", "1280x720"]
    assert cli.main(asked) == 0
    assert "2 pictures: 640 x 480 (391 tokens), 1280 x 720 (1,196 tokens)" in capsys.readouterr().out


def test_a_number_of_gpus_is_planned_instead_of_a_load(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "--model", "zai-org/GLM-4.6V-Flash", "--gpu", "H200", "--gpus", "8"]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["stages"]["engine"]["replicas"] == {"min": 8, "max": 8}
    assert ", 8 of them " in printed.err


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (["--gpu", "L5"], "--gpu: The card 'L5' is unknown. Known cards are T4, "),
        ([], "--gpu: No card is given. Give its name, or describe it (--gpu-memory-gib, "),
        (["--gpu", "A10", "--quantization", "fp8"], "--quantization: The format fp8 needs a GPU of compute capability"),
        (["--gpu", "L4", "--gpu-capability", "9.0"], "--gpu: Name a card or describe one, not both: --gpu-capability"),
        ([*OTHER, "--gpu-capability", "new"], "--gpu-capability: 'new' is no compute capability, such as 8.9"),
        (["--gpu", "L4", "--gpu-sms", "3"], "--gpu: Name a card or describe one, not both"),
        ([*OTHER[:-1], "0"], "--gpu-sms: 0 is not a number above zero and at most 1,000,000."),
        (
            ["--gpu", "L4", "--picture", "big"],
            "--picture: 'big' is neither a size in pixels, such as 1920x1080, nor `none`.",
        ),
        (["--gpu", "L4", "--picture", "5000x20"], "--picture: A picture of 5000 x 20 is refused"),
        (
            ["--gpu", "L4", "--requests-per-second", "0"],
            "--requests-per-second: 0 is not a number above zero and at most 1,000,000.",
        ),
        (
            ["--gpu", "L4", "--requests-per-second", "1e7"],
            "--requests-per-second: 1e+07 is not a number above zero and at most 1,000,000.",
        ),
        (
            ["--gpu", "L4", "--requests-per-second", "nan"],
            "--requests-per-second: nan is not a number above zero and at most 1,000,000.",
        ),
        (["--gpu", "L4", "--gpus", "8"], "--requests-per-second: Give either the load, to learn how many GPUs it"),
        (
            ["--gpu", "L4", "--first-token-seconds", "0"],
            "--first-token-seconds: 0 is not a number above zero and at most 1,000,000.",
        ),
        (["--gpu", "L4", "--answer-tokens", "0"], "--answer-tokens: 0 is less than 1"),
        (["--gpu", "L4", "--context", "-5"], "--context: -5 is below zero."),
        (["--gpu", "L4", "--context", "200000"], "--context: A context of 200,000 tokens is impossible"),
        (
            ["--gpu", "L4", "--model", "nobody/nothing"],
            "--model: 'nobody/nothing' is neither a folder with a config.json",
        ),
        (["--gpu", "T4", "--quantization", "none"], "--gpu: The model (unquantized weights) with one request of "),
    ],
)
def test_what_can_not_be_planned_is_refused_in_one_line(asked: list[str], why: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([*ASKED, *asked]) == 1
    line = standard_error(capsys)
    assert line.startswith(f"glm-serve: {why}")
    assert line.count("\n") == 1
