"""Conversations on the page in Chromium: failed questions, limits, interruptions, the history, no storage."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, expect

from serve_app.contracts import ImagePart, TextPart
from serve_app.errors import ImageRejected
from tests.browser.conftest import LABEL
from tests.fakes import FakeAnswer, FakeAnswers

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

REFUSED = ImageRejected("Picture 1 can't be read.", "image")


def sent(request: Any) -> tuple[list[str], int]:
    """The texts of a request and the number of its pictures."""
    parts = [part for message in request.messages for part in message.parts]
    return [p.text for p in parts if isinstance(p, TextPart)], len([p for p in parts if isinstance(p, ImagePart)])


async def open_conversation(page: Page, title: str) -> None:
    await page.click("#history")
    await page.locator("#conversations .title", has_text=title).click()


async def test_a_question_that_failed_is_not_sent_again_with_the_next_one(visit: Any) -> None:
    answer = FakeAnswers(FakeAnswer(error=REFUSED), FakeAnswer("Yes"))
    page = (session := await visit(answer)).page
    session.failures_expected = True
    await session.ask("First?", LABEL)
    await expect(page.locator("article .error")).to_be_visible()
    await session.ask("Second?")
    await expect(page.locator(".content").last).to_have_text("Yes")
    assert sent(answer.requests[1]) == (["Second?"], 0)


async def test_a_picture_is_removed_from_a_question_that_is_edited(visit: Any) -> None:
    answer = FakeAnswers(FakeAnswer(error=REFUSED), FakeAnswer("Yes"))
    page = (session := await visit(answer)).page
    session.failures_expected = True
    await session.ask("First?", LABEL)
    await expect(page.locator("article .error")).to_be_visible()
    await page.get_by_role("button", name="Edit").click()
    await page.locator(".question").get_by_role("button", name="Remove label.jpg").click()
    await page.get_by_role("button", name="Ask again").click()
    await expect(page.locator(".content")).to_have_text("Yes")
    assert sent(answer.requests[1]) == (["First?"], 0)


async def test_a_conversation_above_the_limits_is_not_sent_and_the_question_stays(visit: Any) -> None:
    room = 64 * 1024 + LABEL.stat().st_size * 2  # for the texts and one picture in base64, not for two
    answer = FakeAnswers(FakeAnswer("One"), FakeAnswer("Two"))
    page = (session := await visit(answer, app={"settings": {"max_body_bytes": room}})).page
    await session.ask("First?", LABEL)
    await session.answered()
    await session.ask("Second?", LABEL)
    await expect(page.locator("#attachment-error")).to_contain_text("the service accepts 0.1 MB")
    await expect(page.locator("#question")).to_have_value("Second?")
    await page.get_by_role("button", name="Remove label.jpg").click()
    await page.focus("#question")
    await page.keyboard.press("Enter")
    await session.answered(2)
    assert [sent(request)[1] for request in answer.requests] == [1, 1]


async def test_a_question_waits_for_its_pictures_and_is_not_sent_without_those_that_are_refused(visit: Any) -> None:
    answer = FakeAnswer("One")
    page = (session := await visit(answer)).page
    await page.evaluate(
        """() => {
          const decode = createImageBitmap;
          window.createImageBitmap = async file => {
            await new Promise(resolve => setTimeout(resolve, 30));
            return decode(file);
          };
        }"""
    )
    await page.fill("#question", "Which?")
    await page.set_input_files("#files", LABEL)
    await page.keyboard.press("Enter")
    await session.answered()
    await page.fill("#question", "And these?")
    for _ in range(2):  # 16 are allowed
        await page.set_input_files("#files", [str(LABEL)] * 10)
    await page.keyboard.press("Enter")
    await expect(page.locator("#attachment-error")).to_have_text("At most 16 pictures are accepted.")
    await expect(page.locator("#attachments li")).to_have_count(16)
    await expect(page.locator("#question")).to_have_value("And these?")
    assert [sent(request)[1] for request in answer.requests] == [1]


async def test_an_answer_that_is_left_for_another_conversation_stays_in_its_own(visit: Any) -> None:
    answer = FakeAnswers(FakeAnswer("Kept ", "lost", hold_after=2), FakeAnswer("Other"))
    page = (session := await visit(answer)).page
    await session.ask("First?")
    await expect(page.locator(".content")).to_have_text("Kept")
    await page.click("#new")
    await session.ask("Second?")
    await session.answered()
    await open_conversation(page, "First?")
    await expect(page.locator(".content")).to_have_text("Kept")
    await expect(page.locator("article")).to_have_count(1)
    await open_conversation(page, "Second?")
    await expect(page.locator(".content")).to_have_text("Other")


async def test_what_is_deleted_during_an_answer_is_not_written_again(visit: Any) -> None:
    page = (session := await visit(FakeAnswer("Kept ", "lost", hold_after=2))).page
    await session.ask("First?")
    await expect(page.locator(".content")).to_have_text("Kept")
    await page.click("#history")
    await page.click("#history-clear")
    await expect(page.locator("#conversations")).to_have_text("Nothing yet.")
    await page.click("#history-close")
    await expect(page.locator("#stop")).to_be_hidden()
    await page.click("#history")
    await expect(page.locator("#conversations")).to_have_text("Nothing yet.")


async def test_escape_closes_a_dialog_or_an_input_method_and_does_not_stop_the_answer(visit: Any) -> None:
    answer = FakeAnswer("Held ", "on", hold_after=2)
    page = (session := await visit(answer)).page
    await session.ask("First?")
    await expect(page.locator(".content")).to_have_text("Held")
    await page.click("#history")
    await expect(page.locator("#history-dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#history-dialog")).to_be_hidden()
    for key in ({"isComposing": True}, {"keyCode": 229}):
        await page.locator("#question").dispatch_event("keydown", {"key": "Escape", "bubbles": True, **key})
    await page.wait_for_timeout(100)
    await expect(page.locator("#stop")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#stop")).to_be_hidden()


async def test_enter_of_an_input_method_does_not_ask(visit: Any) -> None:
    answer = FakeAnswer("Yes")
    page = (session := await visit(answer)).page
    await page.fill("#question", "zhong")
    for key in ({"isComposing": True}, {"keyCode": 229}):
        await page.locator("#question").dispatch_event("keydown", {"key": "Enter", "bubbles": True, **key})
    await page.wait_for_timeout(100)
    assert answer.requests == []
    await page.focus("#question")
    await page.keyboard.press("Enter")
    await session.answered()


async def test_the_page_answers_where_the_browser_allows_no_storage(visit: Any) -> None:
    page = (session := await visit(FakeAnswer("Yes"))).page
    await page.add_init_script(
        """for (const name of ["sessionStorage", "localStorage", "indexedDB"]) {
          Object.defineProperty(window, name, {get() { throw new DOMException("denied", "SecurityError"); }});
        }"""
    )
    await page.reload()
    await expect(page.locator("#model")).to_contain_text("glm-vision-demo")
    await session.ask("Which?")
    await session.answered()
    await page.click("#history")
    await expect(page.locator("#conversations")).to_have_text("Nothing yet.")


async def test_an_answer_is_copied_over_plain_http_where_there_is_no_clipboard_api(visit: Any) -> None:
    page = (session := await visit(FakeAnswer("It is **ZX1**"))).page
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    await session.ask("Which?")
    await session.answered()
    await page.get_by_role("button", name="Copy answer").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    await page.focus("#question")
    await page.keyboard.press("Control+V")
    await expect(page.locator("#question")).to_have_value("It is **ZX1**")
    await page.evaluate("document.execCommand = () => false")
    await expect(page.get_by_role("button", name="Copy answer")).to_be_visible()
    await page.get_by_role("button", name="Copy answer").click()
    await expect(page.get_by_role("button", name="Could not copy")).to_be_visible()


async def test_a_conversation_that_cannot_be_read_does_not_hide_the_others(visit: Any) -> None:
    page = (session := await visit(FakeAnswer("Yes"))).page
    await session.ask("First?")
    await session.answered()
    await page.click("#history")
    await expect(page.locator("#conversations .title")).to_have_text("First?")
    await page.click("#history-close")
    await page.evaluate(
        """() => new Promise(resolve => {
          const opening = indexedDB.open("glm-conversations");
          opening.onsuccess = () => {
            const transaction = opening.result.transaction("conversations", "readwrite");
            const turn = {question: "Later?", attachments: [], template: {name: "later"}, answer: {state: "done"}};
            transaction.objectStore("conversations").put({id: "later", updated: 0, turns: [turn]});
            transaction.objectStore("conversations").put({id: "broken", updated: 0});
            transaction.oncomplete = resolve;
          };
        })"""
    )
    await page.click("#history")
    await expect(page.locator("#conversations .title")).to_have_text(["First?", "Later?"])


async def test_any_question_can_be_shown_as_a_program(visit: Any) -> None:
    page = (session := await visit(FakeAnswer("Yes"))).page
    await session.ask("@@0@@")
    await session.answered()
    await page.get_by_role("button", name="As a program").click()
    await expect(page.locator("#code")).to_contain_text('"text": "@@0@@"')
