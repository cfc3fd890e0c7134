"""The API reference in Chromium: with scripts its examples are sent, without them it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from serve_app.access.key_file import add_key, new_key
from tests.browser.conftest import LABEL, running
from tests.fakes import FakeAnswer
from tests.ingress.client import make_app

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_an_example_is_sent_with_the_caller_s_key(visit: Any, tmp_path: Path) -> None:
    key, entry = new_key("shop")
    add_key(tmp_path / "keys.json", entry)
    answer = FakeAnswer("Red")
    session = await visit(answer, app={"access": {"keys_file": str(tmp_path / "keys.json")}})
    page, session.failures_expected = session.page, True
    await page.goto(session.url + "docs")
    assert await session.violations() == []
    await page.locator("[data-path='/v1/models']").get_by_role("button", name="Try it").click()
    example = page.locator("details:has([data-path='/v1/chat/completions'])").first
    await example.locator("summary").first.click()
    await example.get_by_role("button", name="Try it").click()
    await example.get_by_role("button", name="Send").click()
    await expect(example.locator(".try pre")).to_contain_text("401 Unauthorized")
    await example.locator("input[type=password]").fill(key)
    await example.get_by_role("button", name="Send").click()
    await expect(example.locator(".try pre")).to_contain_text("200 OK")
    await expect(example.locator(".try pre")).to_contain_text("Red")
    assert answer.requests[0].caller.id == "shop"
    models = page.locator("[data-path='/v1/models']")
    await models.get_by_role("button", name="Send").click()
    await expect(models.locator("pre")).to_contain_text("200 OK")
    await page.reload()
    assert await page.evaluate("Object.values(sessionStorage)") == [key]
    assert await session.violations() == []


async def test_a_form_is_sent_with_a_chosen_file_and_a_list_is_got(visit: Any) -> None:
    page = (session := await visit(answer := FakeAnswer("Red"), locale="zh-CN")).page
    await page.goto(session.url + "docs")
    example = page.locator("details:has([data-path='/v1/ask'])").first
    await example.locator("summary").first.click()
    await example.get_by_role("button", name="试一试").click()
    await example.locator("input[type=file]").set_input_files(LABEL)
    await example.get_by_role("button", name="发送").click()
    await expect(example.locator(".try pre")).to_contain_text('"answer": "Red"')
    assert answer.requests[0].uploads == [LABEL.read_bytes()]
    models = page.locator("[data-path='/v1/models']")
    await models.get_by_role("button", name="试一试").click()
    await models.get_by_role("button", name="发送").click()
    await expect(models.locator("pre")).to_contain_text("glm-vision-demo")


async def test_without_scripts_every_route_and_example_is_there(chromium: Browser) -> None:
    async with running(make_app()) as url:
        context = await chromium.new_context(java_script_enabled=False)
        page = await context.new_page()
        await page.goto(url + "docs")
        assert await page.locator("h2").count() >= 16
        assert await page.get_by_role("button").count() == 0
        await context.close()
