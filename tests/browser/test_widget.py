"""The widget on the example site of the docs, another origin than the service, with valid and refused tokens."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from serve_app.access.key_file import add_key, new_key
from tests.browser.conftest import AXE, LABEL, WCAG, running
from tests.fakes import FakeAnswer
from tests.ingress.client import make_app

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

SITE = Path(__file__).parents[2] / "docs" / "widget-example" / "site.py"


def load_site() -> Any:
    spec = importlib.util.spec_from_file_location("site_with_widget", SITE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def visiting_site(
    browser: Browser,
    folder: Path,
    answer: FakeAnswer,
    *,
    seconds: list[float] | None = None,
    allowed: bool = True,
    requests_per_second: float = 100,  # a test asks faster than a visitor
    **app_options: Any,
) -> AsyncIterator[tuple[Page, list[str]]]:
    """The site in the browser, and the requests that its page makes."""
    key, entry = new_key("site", scopes=("widget",))
    add_key(folder / "keys.json", entry)
    module = load_site()
    module.LIMITS["requests_per_second"] = requests_per_second
    server = module.site("", key)
    origin = f"http://127.0.0.1:{server.server_port}"
    time = seconds or [1_700_000_000.0]
    app = make_app(
        answer,
        access={"keys_file": str(folder / "keys.json")},
        settings={"allowed_origins": [origin] if allowed else []},
        clock_now=lambda: time[0],
        **app_options,
    )
    async with running(app) as url:
        server.server_close()
        server = module.site(url.rstrip("/"), key, server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = await browser.new_context(locale="en-GB")
        page, requests = await context.new_page(), []
        page.on("request", lambda request: requests.append(request.url))
        # The fake clock of the service is in the past, so the widget's must be too.
        await page.add_init_script("Date.now = () => 1700000000000")
        await page.goto(origin)
        yield page, requests
        await context.close()
        server.shutdown()
        server.server_close()


async def ask(page: Page, question: str) -> None:
    launcher = page.locator("glm-chat .launcher")
    await expect(launcher).to_be_attached()
    if await launcher.is_visible():
        await launcher.click()
    await page.locator("glm-chat textarea").fill(question)
    await page.keyboard.press("Enter")


async def test_a_visitor_asks_about_a_picture_on_another_site(chromium: Browser, tmp_path: Path) -> None:
    answer = FakeAnswer("It is **ZX1**. <img src=x onerror=alert(1)>")
    async with visiting_site(chromium, tmp_path, answer) as (page, requests):
        launcher = page.locator("glm-chat .launcher")
        await expect(launcher).to_have_text("客服助手")
        assert not [url for url in requests if "glm-token" in url or "/v1/" in url], "before anybody asks"
        assert await launcher.evaluate("each => getComputedStyle(each).backgroundColor") == "rgb(10, 122, 75)"
        await launcher.click()
        await page.locator("glm-chat input[type=file]").set_input_files(LABEL)
        await expect(page.locator("glm-chat .files li")).to_have_count(1)
        await ask(page, "单号?")
        await expect(page.locator("glm-chat .answer strong")).to_have_text("ZX1")
        announced = page.locator("glm-chat [role=status].visually-hidden")
        await expect(announced).to_contain_text("回答完毕。 It is **ZX1**.")
        assert await page.locator("glm-chat .answer img").count() == 0
        await ask(page, "再说一遍?")
        await expect(page.locator("glm-chat .answer strong")).to_have_count(2)
        await page.evaluate(AXE.read_text())
        found = await page.evaluate("tags => axe.run('glm-chat', {runOnly: tags})", WCAG)
        assert [each["id"] for each in found["violations"]] == []
    assert [len(request.uploads) for request in answer.requests] == [1, 1]
    assert {request.caller.id for request in answer.requests} == {"site"}
    assert len([url for url in requests if url.endswith("/glm-token")]) == 1


async def test_the_limits_are_those_of_the_service_and_a_new_conversation_begins_below_them(
    chromium: Browser, tmp_path: Path
) -> None:
    """They were four pictures in the widget's code, whatever the service accepted."""
    answer = FakeAnswer("Yes")
    async with visiting_site(chromium, tmp_path, answer, preprocess={"max_images": 1}) as (page, requests):
        files, error = page.locator("glm-chat input[type=file]"), page.locator("glm-chat .composer .error")
        await page.locator("glm-chat .launcher").click()
        assert not [url for url in requests if "limits.json" in url], "before a picture or a question"
        await files.set_input_files([LABEL, LABEL])
        await expect(error).to_have_text("最多接受 1 张图片。")
        await ask(page, "单号?")
        await expect(page.locator("glm-chat .answer")).to_have_text("Yes")
        await files.set_input_files(LABEL)
        await ask(page, "收件人?")
        await expect(error).to_contain_text("对话将有 2 个图片和文件，服务最多接受 1 个。请开始新对话")
        await page.get_by_role("button", name="新对话").click()
        await expect(page.locator("glm-chat .answer")).to_have_count(0)
        await page.locator("glm-chat textarea").press("Enter")
        await expect(page.locator("glm-chat .answer")).to_have_text("Yes")
        assert len([url for url in requests if "limits.json" in url]) == 1
    assert [len(request.messages) for request in answer.requests] == [1, 1]


@pytest.mark.usefixtures("within_a_window")
async def test_a_visitor_above_the_token_s_limit_sees_when_to_ask_again(chromium: Browser, tmp_path: Path) -> None:
    async with visiting_site(chromium, tmp_path, FakeAnswer("Yes"), requests_per_second=0.1) as (page, _):
        await ask(page, "One?")
        await expect(page.locator("glm-chat .answer").first).to_have_text("Yes")
        await ask(page, "Two?")
        error = page.locator("glm-chat .log .error").last
        await expect(error).to_contain_text("每 10 秒最多使用 1 个请求")
        await error.get_by_role("button", name="重试", exact=True).click()  # once it can be used again
        await expect(page.locator("glm-chat .answer").last).to_have_text("Yes")
        await expect(page.locator("glm-chat .question")).to_have_count(2)


async def test_an_expired_token_is_replaced(chromium: Browser, tmp_path: Path) -> None:
    seconds = [1_700_000_000.0]
    async with visiting_site(chromium, tmp_path, FakeAnswer("Yes"), seconds=seconds) as (page, requests):
        await ask(page, "One?")
        await expect(page.locator("glm-chat .answer")).to_have_text("Yes")
        seconds[0] += 601
        await ask(page, "Two?")
        await expect(page.locator("glm-chat .answer").last).to_have_text("Yes")
    assert len([url for url in requests if url.endswith("/glm-token")]) == 2


@pytest.mark.parametrize(
    ("token", "said"),
    [("glm-widget-a.b.c", "小组件令牌无效"), ("stolen", "只供 'https://shop.example' 的网页使用"), ("", "no token")],
)
async def test_without_a_valid_token_the_visitor_is_told_why(
    chromium: Browser, tmp_path: Path, token: str, said: str
) -> None:
    async with visiting_site(chromium, tmp_path, FakeAnswer("Never")) as (page, _):
        if token == "stolen":  # it was issued for another site
            from serve_app.access.widget_tokens import widget_tokens
            from serve_app.caller import Caller, CallerLimits

            tokens = widget_tokens("", lambda: 1_700_000_000.0)
            token, _ = tokens.issue(Caller("shop"), "https://shop.example", CallerLimits(), 600)
        await expect(page.locator("glm-chat .launcher")).to_be_attached()
        await page.evaluate(
            """async token => {
              document.querySelector("glm-chat").remove();
              const url = document.querySelector("script[src]").src.replace("widget.js", "widget_chat.js");
              (await import(url)).start({token, language: "zh-CN"});
            }""",
            token,
        )
        await ask(page, "One?")
        await expect(page.locator("glm-chat .log .error")).to_contain_text(said)


async def test_a_site_whose_origin_is_not_allowed_gets_no_answer(chromium: Browser, tmp_path: Path) -> None:
    answer = FakeAnswer("Never")
    async with visiting_site(chromium, tmp_path, answer, allowed=False) as (page, _):
        await ask(page, "One?")
        await expect(page.locator("glm-chat .log .error")).to_contain_text("The site gave no token")
    assert answer.requests == []
