"""The page over the real service and its demo model: a waybill number in Chinese, and the three templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import chromium as chromium
from tests.browser.conftest import visiting
from tests.cluster.conftest import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

EVALUATION = ROOT / "benchmarks" / "evaluation"
FORMS: dict[str, tuple[str, dict[str, str]]] = {
    "waybill": (
        "labels-002.jpg",
        {
            "tracking": "ZX587254423214",
            "recipient": "何洋",
            "phone": "13012908454",
            "address": "上海市长宁区新光路587号28栋2702室",
        },
    ),
    "report": (
        "documents-001.jpg",
        {"title": "采购单", "number": "SG854233", "date": "2023-12-14", "party": "华金食品有限公司"},
    ),
    "invoice": ("documents-001.jpg", {"date": "2023-12-14", "party": "华金食品有限公司", "total": "10825.70"}),
}


async def attach(page: Page, picture: Path) -> None:
    await page.set_input_files("#files", picture)
    await expect(page.locator("#attachments li")).to_have_count(1)


async def test_a_waybill_number_is_read_by_the_page_in_chinese(chromium: Browser, base_url: str) -> None:
    async with visiting(chromium, f"{base_url}/", locale="zh-CN") as session:
        page = session.page
        await attach(page, EVALUATION / "labels-002.jpg")
        await page.get_by_placeholder("输入关于图片的问题").fill("运单号是多少？")
        await page.get_by_role("button", name="提问").click()
        await expect(page.locator(".content")).to_have_text("ZX587254423214", timeout=60_000)
        await session.answered()


@pytest.mark.parametrize("template", FORMS)
async def test_a_template_fills_its_form_from_a_picture(chromium: Browser, base_url: str, template: str) -> None:
    picture, expected = FORMS[template]
    async with visiting(chromium, f"{base_url}/", locale="zh-CN") as session:
        page: Any = session.page
        await expect(page.locator("#model")).not_to_be_empty()
        await attach(page, EVALUATION / picture)
        await page.select_option("#template", template)
        await page.click("#send")
        await expect(page.locator("article .actions")).to_have_count(1, timeout=60_000)
        for field, value in expected.items():
            await expect(page.locator(f"[data-field={field}]")).to_have_value(value)
        doubted = await page.locator(".fields [data-doubt]").evaluate_all("all => all.map(each => each.dataset.field)")
        if template == "invoice":  # the number of the sample, a purchase order, is no invoice number
            assert "number" in doubted
