"""`glm-serve` run as a command: mistakes that a new user makes, and what is printed to terminals and pipes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_ask import Service
from tests.test_ask import picture as picture
from tests.test_ask import service as service

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "serve_app"]


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GLM_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **variables}


def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(**variables),
    )


def question_of(service: Service) -> str:
    text: str = service.asked[-1]["messages"][0]["content"][-1]["text"]
    return text


def test_ask_takes_the_port_from_the_variable_that_up_reads(service: Service):
    service.says("here")
    ended = run("ask", "Hello", GLM_HTTP__PORT=service.url.rpartition(":")[2])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "here\n", "")


@pytest.mark.parametrize("ending", ["/v1", "/v1/", "/"])
def test_ask_takes_the_address_that_up_prints(service: Service, ending: str):
    service.says("here")
    assert run("ask", "--url", service.url + ending, "Hello").stdout == "here\n"


@pytest.mark.parametrize("name", ["label.png", "scan.PDF", "http://example.org/label", "file without suffix"])
def test_a_picture_without_a_question_is_refused(service: Service, tmp_path: Path, name: str):
    argument = name
    if name == "file without suffix":
        (tmp_path / name).write_bytes(b"\x89PNG")
        argument = str(tmp_path / name)
    ended = run("ask", "--url", service.url, argument)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"glm-serve: The question is missing: the last argument, {argument}, is a picture.")
    assert service.asked == []


def test_a_question_before_its_picture_is_refused(service: Service, picture: Path):
    ended = run("ask", "--url", service.url, "What is this?", str(picture))
    assert ended.returncode == 1
    assert "The question is missing: the last argument" in ended.stderr


def test_a_question_without_quotation_marks_is_refused(service: Service, picture: Path):
    ended = run("ask", "--url", service.url, str(picture), "What", "is", "this?")
    assert ended.returncode == 1
    assert "Can't read the picture What: No such file or directory." in ended.stderr
    assert "in quotation marks" in ended.stderr


def test_a_question_can_be_read_from_standard_input(service: Service, picture: Path):
    service.says("x")
    assert run("ask", "--url", service.url, str(picture), "-", stdin="What is\nthis?\n").returncode == 0
    assert question_of(service) == "What is\nthis?"


def test_an_empty_question_is_refused(service: Service):
    for stdin, argument in (("", "-"), ("", " ")):
        ended = run("ask", "--url", service.url, argument, stdin=stdin)
        assert (ended.returncode, ended.stderr) == (1, "glm-serve: The question is empty.\n")


def test_an_answer_that_was_cut_says_so(service: Service):
    service.says("Two ", "cats", finish_reason="length")
    ended = run("ask", "--url", service.url, "Hello")
    assert ended.stdout == "Two cats\n"
    assert ended.stderr == "glm-serve: The answer was cut after 2 tokens; --max-tokens N sets the limit.\n"


def test_an_empty_answer_says_so(service: Service):
    service.says()
    ended = run("ask", "--url", service.url, "Hello")
    assert (ended.stdout, ended.stderr) == ("", "glm-serve: The answer is empty.\n")


def test_a_terminal_shows_that_the_answer_is_waited_for(service: Service):
    service.says("Two cats")
    service.pause_s = 2.5
    own, terminal = pty.openpty()
    ended = subprocess.run(
        [*COMMAND, "ask", "--url", service.url, "Hello"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=60,
        env=environment(),
    )
    os.close(terminal)
    shown = os.read(own, 10_000).decode()
    os.close(own)
    assert ended.stdout == "Two cats\n"
    assert re.match(r"\rwaiting for the answer … 1 s.*\r\x1b\[Kfirst token after \d+\.", shown, re.DOTALL), shown


def test_pictures_and_a_pdf_are_sent_before_the_question(service: Service, picture: Path, tmp_path: Path):
    service.says("x")
    pdf = tmp_path / "invoice.pdf"
    pdf.write_bytes(b"%PDF-1.7")
    assert run("ask", "--url", service.url, str(picture), str(pdf), "What changed?").returncode == 0
    first, second, question = service.asked[0]["messages"][0]["content"]
    assert first["image_url"]["url"].startswith("data:image/png;base64,")
    assert second["image_url"]["url"].startswith("data:application/pdf;base64,")
    assert question["text"] == "What changed?"


def test_json_is_one_object(service: Service):
    service.says("编", "号", finish_reason="length")
    ended = run("ask", "--json", "--url", service.url, "Hello")
    answer = json.loads(ended.stdout)
    assert (answer["answer"], answer["finish_reason"]) == ("编号", "length")
    assert answer["usage"] == {"prompt_tokens": 40, "completion_tokens": 2}
    assert 0 < answer["first_token_s"] <= answer["total_s"]


PLAN = ("plan", "--model", "zai-org/GLM-4.6V-Flash", "--gpu", "L4", "--requests-per-second", "1")


@pytest.mark.parametrize("arguments", [("ask", "Hello"), PLAN], ids=lambda arguments: arguments[0])
def test_a_closed_pipe_ends_the_command_without_a_traceback(service: Service, arguments: tuple[str, ...]):
    service.says(*["word "] * 100)
    read_end, write_end = os.pipe()
    os.close(read_end)
    ended = subprocess.run(
        [*COMMAND, *arguments],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env=environment(GLM_HTTP__PORT=service.url.rpartition(":")[2]),
    )
    os.close(write_end)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_listening_on_all_networks_is_warned_about(tmp_path: Path):
    ended = run("up", "--host", "0.0.0.0", "--anonymous", "allow", "--model", str(tmp_path / "nowhere"))
    assert ended.stdout.startswith("warning: The API listens on 0.0.0.0:8000 and accepts requests without a key")


def test_listening_on_all_networks_without_authentication_is_refused(tmp_path: Path):
    ended = run("up", "--host", "0.0.0.0", "--model", str(tmp_path / "nowhere"))
    assert ended.returncode == 1
    assert ended.stdout.startswith("glm-serve: 0.0.0.0 can be reached from other machines, and there is no authent")
    assert "glm-serve keys add NAME --file keys.json" in ended.stdout


def test_a_key_file_that_can_not_be_read_is_named(service: Service, tmp_path: Path):
    ended = run("ask", "--url", service.url, "--key-file", str(tmp_path / "none"), "Hello")
    assert ended.returncode == 1
    assert ended.stderr.startswith("glm-serve: The file of --key-file can't be read: ")
    assert service.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_listening_on_loopback_is_not_warned_about(tmp_path: Path, host: str):
    assert "warning" not in run("up", "--host", host, "--model", str(tmp_path / "nowhere")).stdout


@pytest.mark.parametrize("command", [("up",), ("doctor",), ("ask", "Hello")], ids=" ".join)
def test_an_unknown_variable_is_refused_with_the_most_similar_setting(command: tuple[str, ...]):
    ended = run(*command, GLM_PORT="9000", GLM_ENGINE__MAX_SLTS="4", GLM_NO_SUCH="1")
    assert ended.returncode == 2
    assert ended.stderr.replace("glm-serve: The environment variable ", "").splitlines() == [
        "GLM_ENGINE__MAX_SLTS is not a setting. Did you mean GLM_ENGINE__MAX_SLOTS?",
        "GLM_NO_SUCH is not a setting. docs/settings.md lists all settings.",
        "GLM_PORT is not a setting. Did you mean GLM_HTTP__PORT?",
    ]


def test_variables_that_kubernetes_sets_for_services_are_left_out(tmp_path: Path):
    services = {"GLM_SERVE_SVC_SERVICE_HOST": "10.0.0.1", "GLM_SERVE_SVC_PORT": "tcp://10.0.0.1:8000"}
    ended = run("up", "--model", str(tmp_path / "nowhere"), **services)
    assert ended.returncode == 1
    assert "is not a setting" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(("up", "--prot", "9000"), "--port"), (("ask", "--max-token=8", "Hello"), ""), (("doctor", "--jsn"), "--json")],
)
def test_a_misspelt_option_is_refused_with_the_most_similar_one(arguments: tuple[str, ...], hint: str):
    ended = run(*arguments)
    if hint:
        assert ended.returncode == 2
        assert ended.stderr.endswith(f"Did you mean {hint}?\n")
    else:  # an unambiguous beginning is accepted
        assert "unrecognized" not in ended.stderr
