"""One browser, and one app with secrets in every state, for all tests of the page."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request

from sandbox.functions_host import FunctionsHost
from sandbox.postgresql import PostgreSQL
from tests.browser import chromium, secrets_in_every_state
from tests.world import World, world

APP = Path(__file__).parents[2]


# Not for the session: while Playwright is up, nothing else in this thread can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Skip where there is no browser, loudly; in CI that is a failure: there these tests have to run."""
    path = chromium.find()
    if path is None:
        complaint = "no Chromium: `make browser` installs it as root, else install Debian's package chromium"
        if os.environ.get("CI"):
            pytest.fail(complaint)
        pytest.skip(complaint)
    with chromium.started(path) as started:
        yield started


@dataclass
class App:
    """The app behind its host, and the names of its secrets by what they are."""

    here: World
    host: FunctionsHost
    names: dict[str, str]

    def url(self, query: str = "") -> str:
        return f"{self.host.url}/api/dashboard?code={self.host.function_key}{query}"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("vault")
    with world(folder, postgresql, behind=secrets_in_every_state.AGE) as here:
        names = secrets_in_every_state.arrange(here)
        with FunctionsHost(APP, environment=here.vault.environment()) as host:
            yield App(here, host, names)


@dataclass
class Visitor:
    """A page that is open, what the browser complained about, and where it asked."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def press(self, label: str) -> None:
        self.go(self.page.get_by_role("button", name=label, exact=True))

    def follow(self, label: str) -> None:
        self.go(self.page.get_by_role("link", name=label, exact=True).first)

    def go(self, locator: Locator) -> None:
        """Click, and be on the next page: a click alone returns before that is there."""
        with self.page.expect_navigation():
            locator.click()

    @property
    def rows(self) -> list[str]:
        """The names in the table that are seen, without their common beginning."""
        rows = [row for row in self.page.locator("tbody tr").all() if row.is_visible()]
        labels = [row.locator("th a").get_attribute("aria-label") or "" for row in rows]
        return [label.removeprefix(secrets_in_every_state.PREFIX) for label in labels]


@pytest.fixture
def visit(browser: Browser, app: App) -> Iterator[Callable[..., Visitor]]:
    """Open the page, in a browser profile of its own, with what `new_context` takes."""
    opened: list[Visitor] = []

    def visit(query: str = "", **how: Any) -> Visitor:  # Any: the keywords of new_context
        page = browser.new_context(**how).new_page()
        page.set_default_timeout(60_000)
        visitor = Visitor(page)
        opened.append(visitor)

        def complained(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                visitor.complaints.append(message.text)

        def asked(request: Request) -> None:
            visitor.asked.append(request.url)

        page.on("console", complained)
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        page.on("request", asked)
        page.goto(app.url(query))
        return visitor

    yield visit
    for visitor in opened:
        visitor.page.context.close()
