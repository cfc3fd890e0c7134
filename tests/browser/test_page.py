"""The page in Chromium over a fake answer: asking, streams, files, errors and the history."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import expect

from serve_app.contracts import Box, Boxed, Delta, ImagePart, PictureSeen, TextPart
from serve_app.errors import ImageRejected, Overloaded
from tests.browser.conftest import LABEL
from tests.fakes import FakeAnswer, FakeAnswers
from tests.ingress.client import soon

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

MARKDOWN = "# Label\n\nIt is **ZX1**.\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n$$\\frac{a}{b}$$\n\n- one\n- `two`\n"
PDF = base64.b64encode(b"%PDF-1.4 not read by the fake")


def uploads(answer: Any) -> list[list[ImagePart]]:
    """The pictures of each request."""
    return [[p for m in request.messages for p in m.parts if isinstance(p, ImagePart)] for request in answer.requests]


async def test_a_chosen_picture_is_sent_before_the_question_and_the_answer_is_shown_as_markdown(visit: Any) -> None:
    answer = FakeAnswer(Delta("Look at the barcode.", 4, "reasoning"), *MARKDOWN)
    page = (session := await visit(answer)).page
    await session.ask("Which number?", LABEL)
    await session.answered()
    picture, question = answer.requests[0].messages[0].parts
    assert isinstance(picture, ImagePart)
    assert question == TextPart("Which number?")
    content = page.locator(".content")
    await expect(content.locator("strong")).to_have_text("ZX1")
    await expect(content.locator("td.align-right")).to_have_text("2")
    await expect(content.locator("math mfrac")).to_have_count(1)
    await expect(content.locator("li")).to_have_count(2)
    await expect(page.locator("details .reasoning")).to_be_hidden()
    await page.click("article summary")
    await expect(page.locator("details .reasoning")).to_have_text("Look at the barcode.")
    await expect(page.locator(".answer p.figures").last).to_contain_text("tokens read (30 of pictures)")


async def test_pictures_are_pasted_dropped_and_removed(visit: Any) -> None:
    answer = FakeAnswer("One")
    page = (session := await visit(answer)).page
    await page.evaluate(
        """async encoded => {
          const bytes = Uint8Array.from(atob(encoded), each => each.charCodeAt(0));
          for (const [kind, names] of [["paste", ["a.jpg"]], ["drop", ["b.jpg", "c.jpg"]]]) {
            const moved = new DataTransfer();
            for (const name of names) moved.items.add(new File([bytes], name, {type: "image/jpeg"}));
            const event = kind === "paste" ? new ClipboardEvent(kind, {clipboardData: moved, bubbles: true})
              : new DragEvent(kind, {dataTransfer: moved, bubbles: true, cancelable: true});
            document.body.dispatchEvent(event);
          }
        }""",
        base64.b64encode(LABEL.read_bytes()).decode(),
    )
    await expect(page.locator("#attachments li")).to_have_count(3)
    await page.get_by_role("button", name="Remove b.jpg").click()
    await session.ask("Which?")
    await session.answered()
    assert [len(each) for each in uploads(answer)] == [2]


async def test_a_photograph_is_taken_with_the_camera(visit: Any) -> None:
    answer = FakeAnswer("A pattern")
    page = (session := await visit(answer)).page
    await page.click("#camera")
    await page.click("#capture")
    await expect(page.locator("#attachments .name")).to_have_text("photo.jpg")
    assert await page.evaluate("document.getElementById('video').srcObject.active") is False
    await session.ask("What?")
    await session.answered()
    assert len(uploads(answer)[0]) == 1


async def test_a_large_photograph_is_made_smaller_in_the_browser_and_that_is_said(visit: Any) -> None:
    answer = FakeAnswer("Large")
    page = (session := await visit(answer)).page
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    photograph = io.BytesIO()
    Image.new("RGB", (4000, 3000), "blue").save(photograph, "JPEG", exif=exif)
    file = {"name": "big.jpg", "mimeType": "image/jpeg", "buffer": photograph.getvalue()}
    await page.set_input_files("#files", file)
    await expect(page.locator("#attachments small")).to_contain_text("3000 × 4000 → 1901 × 2534")
    await session.ask("What?")
    await session.answered()
    sent = Image.open(io.BytesIO(base64.b64decode(str(uploads(answer)[0][0].source).partition(",")[2])))
    assert (sent.size, sent.getexif().get(0x0112)) == ((1901, 2534), None)


async def test_pages_of_a_pdf_are_chosen_and_other_files_are_refused(visit: Any) -> None:
    answer = FakeAnswer("Page two")
    page = (session := await visit(answer)).page
    await page.set_input_files(
        "#files",
        [
            {"name": "a.pdf", "mimeType": "application/pdf", "buffer": base64.b64decode(PDF)},
            {"name": "a.exe", "mimeType": "application/x-msdownload", "buffer": b"MZ"},
        ],
    )
    await expect(page.locator("#attachment-error")).to_have_text("a.exe is neither a picture nor a PDF.")
    await page.get_by_label("Pages of a.pdf").fill("2-3")
    await session.ask("Total?")
    await session.answered()
    (document,) = uploads(answer)[0]
    assert document.noun == "File"
    assert document.pages is not None
    assert document.pages.ranges == ((2, 3),)


async def test_a_follow_up_sends_the_conversation_and_a_second_picture(visit: Any) -> None:
    answer = FakeAnswers(FakeAnswer("First"), FakeAnswer("Second"))
    session = await visit(answer)
    await session.ask("One?", LABEL)
    await session.answered(1)
    await session.ask("Two?", LABEL)
    await session.answered(2)
    texts = [[p.text for m in r.messages for p in m.parts if isinstance(p, TextPart)] for r in answer.requests]
    assert texts == [["One?"], ["One?", "First", "Two?"]]
    assert [len(each) for each in uploads(answer)] == [1, 2]


async def test_stop_keeps_the_text_and_continue_goes_on(visit: Any) -> None:
    first = FakeAnswer("The number", " is ", "lost", hold_after=3)
    answer = FakeAnswers(first, FakeAnswer(" ZX1."))
    page = (session := await visit(answer)).page
    await session.ask("Which?")
    await expect(page.locator(".content")).to_contain_text("The number is")
    await page.click("#stop")
    await expect(page.locator(".after")).to_contain_text("Stopped.")
    await page.get_by_role("button", name="Continue").click()
    await expect(page.locator(".content")).to_have_text("The number is ZX1.")
    assert answer.requests[1].continue_last
    await soon(lambda: first.closed_early == 1)


async def test_an_answer_is_generated_again_past_the_cache_and_a_question_is_edited(visit: Any) -> None:
    answer = FakeAnswers(FakeAnswer("Old"), FakeAnswer("New"), FakeAnswer("Other"))
    page = (session := await visit(answer)).page
    await session.ask("Which?", LABEL)
    await session.answered()
    await page.get_by_role("button", name="Answer again").click()
    await expect(page.locator(".content")).to_have_text("New")
    assert [request.cache for request in answer.requests] == ["use", "refresh"]
    await page.get_by_role("button", name="Edit").click()
    await page.locator(".question textarea").fill("Who?")
    await page.get_by_role("button", name="Ask again").click()
    await expect(page.locator(".content")).to_have_text("Other")
    assert answer.requests[2].messages[0].parts[-1] == TextPart("Who?")
    assert len(uploads(answer)[2]) == 1


@pytest.mark.parametrize("fail_after", [0, 2])
async def test_an_error_stands_under_its_question_and_the_question_can_be_asked_again(
    visit: Any, fail_after: int
) -> None:
    error = ImageRejected("Picture 1 can't be read.", "image")
    answer = FakeAnswers(FakeAnswer("Half", error=error, fail_after=fail_after), FakeAnswer("Better"))
    page = (session := await visit(answer)).page
    session.failures_expected = True
    await session.ask("Which?")
    await expect(page.locator("article .error")).to_contain_text("Picture 1 can't be read.")
    await expect(page.locator("article .error small")).to_contain_text("invalid_image")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator(".content")).to_have_text("Better")
    await expect(page.locator("article .error")).to_have_count(0)


async def test_the_page_waits_as_long_as_the_service_says(visit: Any) -> None:
    error = Overloaded("The service is at its limit.")
    error.retry_after_s = 2
    session = await visit(FakeAnswer(error=error))
    session.failures_expected = True
    await session.ask("Which?")
    await expect(session.page.get_by_role("button", name="Try again")).to_be_disabled()
    await expect(session.page.get_by_role("button", name="Try again")).to_be_enabled()


async def test_a_service_that_cannot_be_reached_is_said_and_the_conversation_stays(visit: Any) -> None:
    page = (session := await visit(FakeAnswer("One"))).page
    await session.ask("First?")
    await session.answered()
    session.failures_expected = True
    await page.context.set_offline(True)
    await session.ask("Second?")
    await expect(page.locator("article .error")).to_contain_text("can't be reached")
    await expect(page.locator("article")).to_have_count(2)


async def test_regions_are_drawn_on_the_picture_and_can_be_chosen(visit: Any) -> None:
    boxed = (Boxed("number", (Box((100, 200, 500, 300), (54, 81, 270, 122), 0),)),)
    seen = (PictureSeen((540, 405), (504, 392), 252),)
    page = (session := await visit(FakeAnswer("Here", boxed=boxed, pictures=seen))).page
    await session.ask("Where?", LABEL)
    await session.answered()
    region, picture = page.locator(".frame .region"), page.locator(".frame img")
    box, outer = await region.bounding_box(), await picture.bounding_box()
    assert box is not None
    assert outer is not None
    assert (box["x"] - outer["x"]) / outer["width"] == pytest.approx(0.1, abs=0.02)
    assert box["width"] / outer["width"] == pytest.approx(0.4, abs=0.02)
    await page.get_by_role("button", name="Region 1: 54, 81, 270, 122").last.click()
    await expect(region).to_have_attribute("aria-pressed", "true")
    await expect(page.locator(".after")).to_contain_text("The model saw label.jpg at 504 × 392 instead of 540 × 405")


async def test_conversations_stay_in_the_browser_and_are_exported(visit: Any, tmp_path: Path) -> None:
    page = (session := await visit(FakeAnswers(FakeAnswer("It is **ZX1**")))).page
    await session.ask("Which number?", LABEL)
    await session.answered()
    await page.click("#history")
    await expect(page.get_by_role("button", name="Export Which number?")).to_be_visible()
    await page.reload()
    await expect(page.locator("article")).to_have_count(0)
    await page.click("#history")
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export Which number?").click()
    await (await download.value).save_as(tmp_path / "conversation.json")
    (exported,) = json.loads((tmp_path / "conversation.json").read_text())
    (turn,) = exported["turns"]
    assert (turn["question"], turn["answer"]["text"]) == ("Which number?", "It is **ZX1**")
    assert turn["attachments"][0]["url"].startswith("data:image/jpeg;base64,")
    await page.get_by_role("button", name="Which number?", exact=True).click()
    await expect(page.locator(".content strong")).to_have_text("ZX1")
    await expect(page.locator(".frame img")).to_have_count(1)
    await page.click("#history")
    await page.click("#history-clear")
    await expect(page.locator("#conversations")).to_have_text("Nothing yet.")


async def test_what_is_done_before_the_modules_have_run_is_not_lost(visit: Any) -> None:
    page = (await visit()).page
    held: list[Any] = []
    await page.route("**/page.js", lambda route: held.append(route))
    await page.reload()
    await page.fill("#question", "Which number?")
    await page.set_input_files("#files", LABEL)
    await page.click("#history")
    await expect(page.locator("#history-dialog")).to_be_hidden()
    await held[0].continue_()
    await expect(page.locator("#history-dialog")).to_be_visible()
    await expect(page.locator("#attachments li")).to_have_count(1)
    await expect(page.locator("#question")).to_have_value("Which number?")


async def test_an_answer_is_rated(visit: Any) -> None:
    given = []

    async def feedback(rated: Any) -> int:
        given.append((rated.answer_id, rated.rating))
        return 1

    page = (session := await visit(FakeAnswer("Three"), app={"feedback": feedback})).page
    await session.ask("Which?")
    await session.answered()
    await page.get_by_role("button", name="Wrong").click()
    await expect(page.get_by_role("button", name="Wrong")).to_have_attribute("aria-pressed", "true")
    ((answer_id, rating),) = given
    assert answer_id.startswith("chatcmpl-")
    assert rating == "down"


async def test_a_request_is_shown_as_a_program(visit: Any) -> None:
    page = (session := await visit(FakeAnswer("Three"))).page
    await session.ask("Who's the 'recipient'?", LABEL)
    await session.answered()
    await page.get_by_role("button", name="As a program").click()
    await expect(page.locator("#code")).to_contain_text("base64 -w0 -- 'label.jpg'")
    await page.get_by_role("button", name="Python").click()
    await expect(page.locator("#code")).to_contain_text('data_url("label.jpg", "image/jpeg")')
    await page.get_by_role("button", name="JavaScript").click()
    await expect(page.locator("#code")).to_contain_text('await dataUrl("label.jpg", "image/jpeg")')
