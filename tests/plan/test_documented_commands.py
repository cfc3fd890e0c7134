"""Commands in docs/{kubernetes,platforms,operations,capacity}.md: marked blocks run, others have flags that exist."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.settings import Settings

pytestmark = pytest.mark.chart

ROOT = Path(__file__).parents[2]
BINARIES = ROOT / ".tools" / "bin"
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("kubernetes", "platforms", "operations", "capacity")]
MARKED = re.compile(r"^ *<!-- run: bash -->\n *```bash\n(.*?)^ *```\n(?:```text\n(.*?)```)?", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^ *```bash\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
VALUES = yaml.safe_load((ROOT / "helm" / "values.yaml").read_text())
FREE = {"podAnnotations", "podLabels", "nodeSelector", "annotations"}  # maps that take any key


def blocks() -> list[Any]:
    """Each block that is marked, and what stands behind it as told on standard error."""
    return [
        pytest.param(*block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(MARKED.findall(page.read_text()))
    ]


def commands(program: str) -> list[list[str]]:
    """Every command of the pages that starts with `program`, also behind a pipe, as words."""
    found = []
    for page in PAGES:
        for block in FENCED.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"\s(?:\||&|>)(?:\s|$)", line):
                    words = shlex.split(part, comments=True)
                    if words[:1] == [program]:
                        found.append(words)
    return found


@pytest.mark.parametrize(("block", "told"), blocks())
def test_a_block_that_is_marked_runs_and_tells_what_the_page_says(block: str, told: str, tmp_path: Path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "helm").symlink_to(BINARIES / "helm4")
    (programs / "glm-serve").symlink_to(Path(sys.executable).parent / "glm-serve")
    for name in ("helm", "k8s"):  # copies: a command that writes there changes no file of the repository
        shutil.copytree(ROOT / name, tmp_path / name)
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
    )
    assert ended.returncode == 0, ended.stderr
    assert not told or ended.stderr == told
    for made in tmp_path.glob("*.yaml"):
        assert list(yaml.safe_load_all(made.read_text()))


@cache
def told_flags(program: str, *subcommand: str) -> set[str]:
    """Long and short flags that the program's help names for a subcommand, and for all."""
    text = ""
    for help_ in ([*subcommand, "--help"], ["options"] if program == "kubectl" else ["--help"]):
        text += subprocess.run([str(BINARIES / program), *help_], capture_output=True, text=True, timeout=30).stdout
    return set(re.findall(r"(?:^|\s)(--?[a-zA-Z][\w-]*)", text))


HELM_PAIRS = {"history", "uninstall", "rollback", "test", "pull", "template", "install", "upgrade", "lint", "get"}
KUBECTL_NESTED = {"rollout": 2, "create": 3}


@pytest.mark.parametrize("words", commands("helm"), ids=" ".join)
def test_every_flag_of_helm_exists(words: list[str]):
    assert words[1] in HELM_PAIRS
    known = told_flags("helm4", words[1]) & told_flags("helm3", words[1])
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("words", commands("kubectl"), ids=" ".join)
def test_every_flag_of_kubectl_exists(words: list[str]):
    own = words[: words.index("--")] if "--" in words else words
    verbs, skip = [], False
    for word in own[1:]:  # the first words that are neither flags nor a namespace
        if skip or word.startswith("-"):
            skip = word in ("-n", "--namespace")
            continue
        verbs.append(word)
    depth = 2 if verbs[:2] == ["create", "namespace"] else KUBECTL_NESTED.get(verbs[0], 1)
    subcommand = verbs[:depth]
    known = told_flags("kubectl", *subcommand)
    assert {word.partition("=")[0] for word in own if word.startswith("-") and word != "-"} <= known


def set_keys() -> set[str]:
    keys = set()
    for words in commands("helm"):
        chart_of_ours = "helm" in words[2:]
        for flag, value in itertools.pairwise(words):
            if flag in ("--set", "--set-json") and chart_of_ours:
                keys.add(value.partition("=")[0])
    return keys


@pytest.mark.parametrize("key", sorted(set_keys()))
def test_every_value_that_is_set_is_one_of_the_charts(key: str):
    if key.startswith("settings."):
        section, _, name = key.removeprefix("settings.").partition(".")
        assert name in type(getattr(Settings(), section)).model_fields
        return
    below: Any = VALUES
    for step in key.split("."):
        if isinstance(below, dict) and step not in below and any(part in FREE for part in key.split(".")):
            return
        assert step in below, key
        below = below[step]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
