"""Refusals on the Chinese page in Chromium: 403, 413, 429, 504 of the service, and the pages of a proxy before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from serve_app.access.key_file import LimitEntry, add_key, new_key
from serve_app.errors import DeadlineExceeded
from tests.browser.conftest import LABEL
from tests.fakes import FakeAnswer, FakeAnswers

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

CHAT = "**/v1/chat/completions"
PROXY_PAGE = "<html><head><title>Error</title></head><body><center><h1>nginx</h1></center></body></html>"


async def log_in(page: Page, key: str) -> None:
    await page.fill("#key", key)
    await page.keyboard.press("Enter")


async def answered_after_retry(page: Page, text: str) -> None:
    """The question is asked again, and the earlier one is still there."""
    await page.locator("article .error").get_by_role("button", name="重试", exact=True).click()
    await expect(page.locator(".content").last).to_have_text(text)
    await expect(page.locator("article .error")).to_have_count(0)
    await expect(page.locator(".content").first).to_have_text("First")


async def test_a_key_without_the_right_is_said_and_can_be_replaced(visit: Any, tmp_path: Path) -> None:
    weak, weak_entry = new_key("reader", scopes=("metrics",))
    strong, entry = new_key("shop")
    for each in (weak_entry, entry):
        add_key(tmp_path / "keys.json", each)
    session = await visit(FakeAnswer("Yes"), app={"access": {"keys_file": str(tmp_path / "keys.json")}}, locale="zh-CN")
    page, session.failures_expected = session.page, True
    await log_in(page, weak)
    await session.ask("运单号是多少？", LABEL)
    error = page.locator("article .error")
    await expect(error).to_contain_text("此接口需要权限范围")
    await expect(error.locator("small")).to_have_text("403 permission_denied")
    await error.get_by_role("button", name="换一个密钥").click()
    await log_in(page, strong)
    await expect(page.locator(".content")).to_have_text("Yes")
    await expect(page.locator(".frame img")).to_have_count(1)


async def test_a_question_that_is_too_large_is_said_and_can_be_shortened(visit: Any) -> None:
    answer = FakeAnswers(FakeAnswer("First"), FakeAnswer("Short"))
    session = await visit(answer, app={"settings": {"max_body_bytes": 20_000}}, locale="zh-CN")
    page, session.failures_expected = session.page, True
    await session.ask("一？")
    await session.answered()
    await session.ask("长" * 20_000)
    await expect(page.locator("article .error")).to_contain_text("请求体超过服务上限")
    await expect(page.locator("article .error small")).to_have_text("413 request_too_large")
    await page.get_by_role("button", name="编辑").last.click()
    await page.locator(".question textarea").fill("短？")
    await page.get_by_role("button", name="重新提问").click()
    await expect(page.locator(".content").last).to_have_text("Short")
    await expect(page.locator("article")).to_have_count(2)


@pytest.mark.usefixtures("within_a_window")
async def test_a_caller_above_its_limit_sees_when_it_may_ask_again(visit: Any, tmp_path: Path) -> None:
    key, entry = new_key("shop", limits=LimitEntry(concurrent_requests=100, requests_per_second=0.1))
    add_key(tmp_path / "keys.json", entry)
    answer = FakeAnswers(FakeAnswer("First"), FakeAnswer("Second"))
    session = await visit(answer, app={"access": {"keys_file": str(tmp_path / "keys.json")}}, locale="zh-CN")
    page, session.failures_expected = session.page, True
    await log_in(page, key)
    await session.ask("一？")
    await session.answered()
    await session.ask("二？")
    error = page.locator("article .error")
    await expect(error).to_contain_text("调用方 'shop' 每 10 秒最多使用")
    await expect(error.locator("small")).to_have_text("429 rate_limit_exceeded")
    waiting = error.get_by_role("button", name="秒后重试")
    await expect(waiting).to_be_disabled()
    await answered_after_retry(page, "Second")


@pytest.mark.parametrize("after", [0, 2], ids=["before the first word", "in the middle"])
async def test_an_answer_that_takes_too_long_is_said_and_can_be_asked_for_again(visit: Any, after: int) -> None:
    late = DeadlineExceeded("The answer was not complete within 300 s, its limit.")
    answer = FakeAnswers(FakeAnswer("First"), FakeAnswer("Half", error=late, fail_after=after), FakeAnswer("Second"))
    session = await visit(answer, locale="zh-CN")
    page, session.failures_expected = session.page, True
    await session.ask("一？", LABEL)
    await session.answered()
    await session.ask("二？")
    await expect(page.locator("article .error")).to_contain_text("回答没有在 300 秒的时限内完成")
    await expect(page.locator("article .error small")).to_contain_text("deadline_exceeded")
    await answered_after_retry(page, "Second")
    assert len(answer.requests[2].messages) == 3


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (413, "HTTP 413。它不接受这么大的请求：请减少图片，或使用更小的图片。"),
        (502, "服务前面的服务器返回了 HTTP 502。"),
        (504, "HTTP 504。它没有等到回答：请重试，或要求更短的回答。"),
    ],
)
async def test_the_page_of_a_proxy_becomes_a_sentence(visit: Any, status: int, said: str) -> None:
    answer = FakeAnswers(FakeAnswer("First"), FakeAnswer("Second"))
    session = await visit(answer, locale="zh-CN")
    page, session.failures_expected = session.page, True
    await session.ask("一？")
    await session.answered()
    await page.route(CHAT, lambda route: route.fulfill(status=status, content_type="text/html", body=PROXY_PAGE))
    await session.ask("二？", LABEL)
    await expect(page.locator("article .error")).to_contain_text(said)
    await expect(page.locator("article .error")).not_to_contain_text("nginx")
    await page.unroute(CHAT)
    await answered_after_retry(page, "Second")
