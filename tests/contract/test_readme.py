"""README.md and README.zh-CN.md: short, in step with each other, and every link leads to a file or a heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import serve_app

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))
PAGES = [ENGLISH, CHINESE, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "zh").glob("*.md"))
MOST_LINES = 120
SECTIONS = {
    "Install": "安装",
    "Send requests": "发送请求",
    "Serve a real model": "使用真实模型",
    "The demo model": "演示模型",
    "On Kubernetes": "部署到 Kubernetes",
    "Where to go on": "接下来看什么",
}


def headings(page: Path) -> list[str]:
    without_code = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return re.findall(r"^## (.*)$", without_code, re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The lines of all code blocks; comments are in the page's language."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(r" +# .*", "", line) for block in blocks for line in block.splitlines()]


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text())


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=lambda page: page.name)
def test_a_readme_has_at_most_120_lines(page: Path):
    assert len(page.read_text().splitlines()) <= MOST_LINES


def test_both_readmes_have_the_same_sections():
    assert headings(ENGLISH) == list(SECTIONS)
    assert headings(CHINESE) == list(SECTIONS.values())


def test_both_readmes_have_the_same_commands():
    assert commands(CHINESE) == commands(ENGLISH)


def test_both_readmes_have_the_same_links_figures_and_tables():
    """The Chinese one links to the Chinese pages where there are any, and to their list."""
    chinese = {link.replace("docs/zh/", "docs/") for link in links(CHINESE)} - {"docs/README.md"}
    assert sorted({*chinese, "README.zh-CN.md"}) == sorted({*links(ENGLISH), "README.md"})
    rows = [sum(line.startswith("|") for line in page.read_text().splitlines()) for page in (ENGLISH, CHINESE)]
    assert rows[0] == rows[1]
    figures = [sorted(set(re.findall(r"\d+\.\d+(?!\.)", page.read_text()))) for page in (ENGLISH, CHINESE)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    for target in links(page):
        path, _, anchor = target.partition("#")
        if re.match(r"https?:|mailto:", target):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_newest_version_of_the_changelog_is_the_packages():
    newest = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[0] == serve_app.__version__
