"""The examples of the READMEs, docs/api.md and docs/front-ends.md run as printed, on the demo model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, Service

pytestmark = pytest.mark.cluster

PAGES = ("README.md", "README.zh-CN.md", "docs/api.md", "docs/front-ends.md")
BLOCKS = [
    pytest.param(language, block, id=f"{page}-{number}")
    for page in PAGES
    for number, (language, block) in enumerate(
        re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    )
]


def changed_files() -> str:
    """Of the repository, without those that git ignores."""
    return subprocess.run(["git", "status", "--short"], cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("language", "block"), BLOCKS)
def test_a_block_runs_answers_and_leaves_no_files(service: Service, language: str, block: str) -> None:
    before = changed_files()
    command = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[language]
    ended = subprocess.run(
        [*command, block.replace("http://127.0.0.1:8000", service.base_url)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.strip()) > 3
    assert '"error"' not in ended.stdout
    assert changed_files() == before


def test_the_readmes_first_question_is_answered(service: Service) -> None:
    (line,) = re.findall(r"^\.venv/bin/glm-serve (ask .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m serve_app {line} --url {service.base_url}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"\d{6,}", ended.stdout)
