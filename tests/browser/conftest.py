"""Chromium with a camera that shows a test pattern, and the app over a fake answer on a real port.

All of it runs in one event loop for the session: the tests, the app and the connection to the browser.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from serve_app.contracts import Answer
from serve_app.ingress.web.static_files import FOLDER
from tests.app_server import serve_app_on_free_port
from tests.fakes import FakeAnswer
from tests.ingress.client import make_app

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
LABEL = FOLDER / "samples" / "label.jpg"
AXE = Path(__file__).with_name("vendor") / "axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
expect.set_options(timeout=20_000)


@dataclass
class Visit:
    """A page that a test has opened, and what must not have happened on it."""

    page: Page
    url: str
    messages: list[str] = field(default_factory=list)  # of the console, errors and CSP violations among them
    requests: list[str] = field(default_factory=list)
    failures_expected: bool = False  # the browser writes each failed request to the console

    async def ask(self, question: str, *files: Path | str) -> None:
        if files:
            await self.page.set_input_files("#files", [str(file) for file in files])
            await expect(self.page.locator("#attachments li")).to_have_count(len(files))
        await self.page.fill("#question", question)
        await self.page.keyboard.press("Enter")

    async def answered(self, count: int = 1) -> None:
        await expect(self.page.locator("article .actions")).to_have_count(count)

    async def violations(self) -> list[Any]:
        """What axe finds against WCAG 2.2 AA."""
        await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate("tags => axe.run(document, {runOnly: tags})", WCAG)
        return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]

    def check(self) -> None:
        unexpected = [
            message
            for message in self.messages
            if not (self.failures_expected and message.startswith("Failed to load resource"))
        ]
        assert unexpected == []
        other = [url for url in self.requests if not url.startswith((self.url, "blob:", "data:"))]
        assert other == [], "a request left the origin"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[str]:
    """The address of the page of this app."""
    async with serve_app_on_free_port(app) as url:
        yield f"{url}/"


async def ready(page: Page) -> None:
    """Waits until the modules have run; they are loaded after the first paint."""
    await page.evaluate(
        """() => new Promise(resolve => {
          const look = () => performance.getEntriesByName("ready").length ? resolve() : setTimeout(look, 5);
          look();
        })"""
    )


@asynccontextmanager
async def visiting(browser: Browser, url: str, **options: Any) -> AsyncIterator[Visit]:
    """The page in a browser profile of its own; at the end its console must be empty and no request have left."""
    context = await browser.new_context(**{"locale": "en-GB", "permissions": ["camera"], **options})
    visit = Visit(await context.new_page(), url)
    visit.page.on("console", lambda message: visit.messages.append(message.text))
    visit.page.on("pageerror", lambda error: visit.messages.append(str(error)))
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    await visit.page.goto(url)
    await ready(visit.page)
    yield visit
    await context.close()
    visit.check()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser) -> AsyncIterator[Callable[..., Any]]:
    """`await visit(answer, …)` opens the page of an app over this answer; options of the app are named by `app`."""
    opened: list[Any] = []

    async def open_page(answer: Answer | None = None, *, app: dict[str, Any] | None = None, **options: Any) -> Visit:
        server = running(make_app(answer or FakeAnswer("Two ", "cats"), **(app or {})))
        url = await server.__aenter__()
        opened.append(server)
        session = visiting(chromium, url, **options)
        opened.append(session)
        return await session.__aenter__()

    yield open_page
    for each in reversed(opened):
        await each.__aexit__(None, None, None)
