"""docs/zh: each page has an English page of the same revision, and the same commands, settings, codes and figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHINESE = sorted((ROOT / "docs" / "zh").glob("*.md"))
INDEX = "README.md"  # a list of the pages; it has no English page
TWINS = [page for page in CHINESE if page.name != INDEX]
# What only operators in China need, such as mirrors, stands between these comments.
ONLY_IN_CHINESE = re.compile(r"<!-- only in Chinese -->.*?<!-- end -->\n?", re.DOTALL)
GENERATED = "<!-- written by `make docs` from "
REVISION = re.compile(r"<!-- revision: (\d{4}-\d\d-\d\d) -->")
CODE_BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(^| +)# .*")

per_page = pytest.mark.parametrize("page", TWINS, ids=lambda page: page.name)


def english(page: Path) -> Path:
    return ROOT / "docs" / page.name


def shared(page: Path) -> str:
    return ONLY_IN_CHINESE.sub("", page.read_text())


def commands(text: str) -> list[str]:
    """The lines of all code blocks without comments, which are in the page's language, and without indentation."""
    lines = [COMMENT.sub("", line).strip() for block in CODE_BLOCK.findall(text) for line in block.splitlines()]
    return [line for line in lines if line]


def code_spans(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", CODE_BLOCK.sub("", text)))


@per_page
def test_a_chinese_page_has_an_english_page_of_the_same_revision(page: Path) -> None:
    """The date is that of the last change of meaning: change both pages, and then both dates.

    Generated pages are of the same revision because one program writes both.
    """
    if GENERATED in page.read_text():
        assert GENERATED in english(page).read_text()
        return
    dates = [REVISION.findall(each.read_text()) for each in (page, english(page))]
    assert dates[0] == dates[1]
    assert len(dates[0]) == 1


@per_page
def test_its_commands_are_those_of_the_english_page(page: Path) -> None:
    missing = set(commands(shared(page))) - set(commands(english(page).read_text()))
    assert not missing, f"docs/{page.name} does not have these lines"


@per_page
def test_its_settings_codes_and_names_are_those_of_the_english_page(page: Path) -> None:
    """What a reader copies (codes, metrics, values, files) is a setting or in the English page, letter by letter."""
    original, settings = english(page).read_text(), (ROOT / "docs" / "settings.md").read_text()
    assert not {span for span in code_spans(shared(page)) if span not in original and f"`{span}`" not in settings}


@per_page
def test_its_figures_are_those_of_the_english_page(page: Path) -> None:
    figures = re.compile(r"\d+\.\d+(?:\.\d+)*|\d{2,}")
    assert not set(figures.findall(shared(page))) - set(figures.findall(english(page).read_text()))


@per_page
def test_it_links_to_the_english_page_and_is_in_the_index(page: Path) -> None:
    assert f"\n[English](../{page.name})\n" in page.read_text()
    assert f"]({page.name})" in (page.parent / INDEX).read_text()


@per_page
def test_the_english_page_links_to_it(page: Path) -> None:
    assert f"\n[中文](zh/{page.name})\n" in english(page).read_text()


def test_most_settings_are_described_in_chinese() -> None:
    """A description that is new or has changed is English in the Chinese page until docs/zh/settings.json has it."""
    rows = [row for row in (ROOT / "docs/zh/settings.md").read_text().splitlines() if row.startswith("| `")]
    chinese = [row for row in rows if re.search(r"[\u4e00-\u9fff]", row.rsplit("| ", 1)[1])]
    assert len(chinese) >= 0.9 * len(rows)
