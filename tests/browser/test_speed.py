"""How fast the page is: first paint, weight of what is loaded, and frames while a long answer streams."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from playwright.async_api import expect

from tests.fakes import FakeAnswer

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

_log = logging.getLogger(__name__)  # shown with --log-cli-level=INFO
WORDS = ["The **number** ", "is `ZX1`. ", "运单号是 ", "| a | b |\n", "\n\n- item ", "\n\n## Part\n\n", "$a^2$ "]


async def test_the_first_paint_is_fast_and_the_page_is_light(visit: Any) -> None:
    """100 ms is the promise on a machine with nothing else to do (`benchmarks.first_paint`); tests share theirs."""
    page = (await visit()).page
    await page.wait_for_selector("#samples:not([hidden])")
    paint, ready, sizes = await page.evaluate(
        """() => [...["first-contentful-paint", "ready"].map(name => performance.getEntriesByName(name)[0].startTime),
          performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
            .map(each => each.transferSize)]"""
    )
    _log.info(f"first contentful paint {paint:.0f} ms, modules have run after {ready:.0f} ms")
    _log.info(f"{sum(sizes) / 1000:.0f} kB in {len(sizes)} requests")
    assert paint < ready < 4000
    assert sum(sizes) < 250_000


async def test_frames_keep_coming_while_4000_tokens_stream(visit: Any) -> None:
    answer = FakeAnswer(*(WORDS[index % len(WORDS)] for index in range(4000)), pause_s=0.001)
    page = (session := await visit(answer)).page
    await page.evaluate(
        """() => {
          window.frames_ms = [];
          let last = performance.now();
          const count = now => { window.frames_ms.push(now - last); last = now; requestAnimationFrame(count); };
          requestAnimationFrame(count);
        }"""
    )
    await session.ask("Everything?")
    await expect(page.locator("article .actions")).to_have_count(1, timeout=90_000)
    frames = sorted(await page.evaluate("window.frames_ms"))
    median, p95 = frames[len(frames) // 2], frames[int(len(frames) * 0.95)]
    _log.info(f"{len(frames)} frames: median {median:.1f} ms, p95 {p95:.1f} ms, longest {frames[-1]:.1f} ms")
    assert p95 < 500
    assert await page.locator(".content").evaluate("each => each.textContent.length") > 15_000
