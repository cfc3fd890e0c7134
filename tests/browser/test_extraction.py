"""Extraction in Chromium over a fake answer: the form, its checks and what the model was not sure of."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from playwright.async_api import Page, expect

from serve_app.contracts import Delta, TokenLogprob
from tests.browser.conftest import LABEL
from tests.fakes import FakeAnswer

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

REAL = {"path": "/models/real", "name": "glm-vision-demo"}  # not the demo model, whose form has fewer fields
INVOICE = {
    "title": "电子发票",
    "number": "24442000000123456789",
    "date": "2026年02月30日",
    "party": "深圳市某某科技有限公司",
    "total": "¥113.00",
    "seller_code": "91110000600037341L",
    "net": "100.00",
    "tax": "12.00",
    "total_in_words": "壹佰壹拾叁元整",
}


def answer_of(fields: dict[str, str], *, unsure: str = "") -> FakeAnswer:
    """An answer with these fields, one token for each quoted text; the value `unsure` has a probability of 30 %."""
    deltas = []
    for piece in json.dumps(fields, ensure_ascii=False).split('"'):
        logprob = math.log(0.3) if unsure and piece == unsure else -0.01
        text = piece + '"'
        deltas.append(Delta(text, 1, logprobs=(TokenLogprob(1, text.encode(), logprob),)))
    last = deltas.pop().text[:-1]
    return FakeAnswer(*deltas, Delta(last, 1, logprobs=(TokenLogprob(1, last.encode(), -0.01),)))


async def extract(visit: Any, template: str, answer: FakeAnswer, **options: Any) -> Page:
    page: Page = (session := await visit(answer, **options)).page
    await expect(page.locator("#model")).not_to_be_empty()
    await page.set_input_files("#files", LABEL)
    await expect(page.locator("#attachments li")).to_have_count(1)
    await page.select_option("#template", template)
    await page.click("#send")
    await session.answered()
    assert await session.violations() == []
    return page


async def test_fields_that_contradict_each_other_or_their_rules_are_marked(visit: Any) -> None:
    answer = answer_of(INVOICE)
    page = await extract(visit, "invoice", answer, app={"model": REAL})
    doubts = page.locator(".fields [data-doubt]")
    names = await doubts.evaluate_all("all => all.map(each => each.dataset.field)")
    assert set(names) == {"date", "net", "tax", "total"}
    await expect(page.locator(".fields label:has([data-field=date]) .doubt")).to_have_text("Check this: not a date")
    await page.locator("[data-field=tax]").fill("13.00")
    await page.locator("[data-field=date]").fill("2026-02-28")
    await expect(doubts).to_have_count(0)
    await expect(page.locator(".fields > p")).to_have_text("All checks passed.")
    (request,) = answer.requests
    assert request.constraint is not None
    schema = json.loads(request.constraint.value)
    assert schema["required"] == ["title", "number", "date", "party", "total"]
    assert "seller_code" in request.messages[0].parts[-1].text


async def test_a_wrong_check_digit_and_a_wrong_amount_in_words_are_marked(visit: Any) -> None:
    fields = INVOICE | {
        "seller_code": "91110000600037341M",
        "tax": "13.00",
        "date": "2026-02-28",
        "total_in_words": "壹佰元整",
    }
    page = await extract(visit, "invoice", answer_of(fields), app={"model": REAL})
    names = await page.locator(".fields [data-doubt]").evaluate_all("all => all.map(each => each.dataset.field)")
    assert set(names) == {"seller_code", "total", "total_in_words"}


async def test_a_value_that_the_model_was_not_sure_of_is_marked(visit: Any) -> None:
    label = {"tracking": "ZX587254423214", "recipient": "何洋", "phone": "13012908454", "address": "上海市"}
    answer = answer_of(label, unsure="何洋")
    page = await extract(visit, "waybill", answer, locale="zh-CN")
    await expect(page.locator(".fields [data-doubt]")).to_have_value("何洋")
    await expect(page.locator(".fields .doubt:not(:empty)")).to_have_text("请核对：模型把握不大（30 %）")
    assert answer.requests[0].messages[0].parts[-1].text == "请用JSON格式输出。"  # what the demo model was trained for
