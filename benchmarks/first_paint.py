"""How long does the page at / take to its first paint in Chromium?

Method: a running service and a running Chromium on the same machine. Each turn opens the page in a new browser profile
(nothing cached, a new process) and then again in the same profile (files cached). A load begins when the machine was at
least 80 % idle for a quarter of a second, at the latest after ten seconds; the report has the least share. The first
load after the browser's start is reported by itself. Times are in ms since the navigation began: first contentful
paint, and `ready`, when all modules of the page have run.

    glm-serve up                                # in another terminal
    python -m benchmarks.first_paint

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from benchmarks.report import header, save

IDLE, IDLE_TRIES, IDLE_S = 0.8, 40, 0.25
SETTLED_MS = 400  # after the page is loaded: its modules have run
TIMES = """() => Object.fromEntries(["first-contentful-paint", "ready"].map(name =>
  [name, performance.getEntriesByName(name)[0]?.startTime ?? null]))"""


def _processor_times() -> tuple[int, int]:
    """(all, idle) since the machine's start, in clock ticks."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(ticks), ticks[3] + ticks[4]


async def wait_for_idle_machine() -> float:
    """The share of the processors that was idle just before; returns as soon as it is enough."""
    share = 0.0
    for _ in range(IDLE_TRIES):
        before = _processor_times()
        await asyncio.sleep(IDLE_S)
        after = _processor_times()
        share = (after[1] - before[1]) / max(1, after[0] - before[0])
        if share >= IDLE:
            break
    return share


async def load(page: Page, url: str) -> dict[str, float]:
    idle = await wait_for_idle_machine()
    await page.goto(url)
    await page.wait_for_timeout(SETTLED_MS)
    return {**await page.evaluate(TIMES), "idle": idle}


async def turn(browser: Browser, url: str, language: str) -> dict[str, dict[str, float]]:
    context = await browser.new_context(locale=language)
    page = await context.new_page()
    loads = {"new profile": await load(page, url), "return": await load(page, url)}
    await context.close()
    return loads


def summary(loads: list[dict[str, float]]) -> dict[str, Any]:
    """Least, median and greatest of each time."""
    times = {name: sorted(each[name] for each in loads if each[name] is not None) for name in loads[0]}
    result: dict[str, Any] = {
        name: [round(values[0]), round(statistics.median(values)), round(values[-1])]
        for name, values in times.items()
        if name != "idle" and values
    }
    return {**result, "least_idle": round(times["idle"][0], 2), "loads": len(loads)}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        turns = [await turn(browser, options.url, options.language) for _ in range(options.loads + 1)]
        version = browser.version
        await browser.close()
    first, *others = turns
    return {
        "chromium": version,
        "first load of the browser": summary([first["new profile"]]),
        **{kind: summary([each[kind] for each in others]) for kind in first},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/")
    parser.add_argument("--loads", type=int, default=15)
    parser.add_argument("--language", default="zh-CN", help="of the browser")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--save", action="store_true", help="write the report to results/")
    options = parser.parse_args()
    report = header("first_paint", ["playwright"]) | asyncio.run(measure(options))
    if options.save:
        save(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
