"""Makes the pictures in docs/images, of secrets in every state: `python -m tests.browser.screenshots`."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import ViewportSize

from sandbox.functions_host import FunctionsHost
from sandbox.postgresql import PostgreSQL
from tests.browser import chromium, secrets_in_every_state
from tests.world import world

ROOT = Path(__file__).parents[2]
WIDE = ViewportSize(width=1160, height=940)
PHONE = ViewportSize(width=390, height=780)


def main(images: Path) -> None:
    """Write them into a folder."""
    images.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgreSQL() as server,
        world(Path(folder), server, behind=secrets_in_every_state.AGE) as here,
    ):
        names = secrets_in_every_state.arrange(here)
        with (
            FunctionsHost(ROOT, environment=here.vault.environment()) as host,
            chromium.started(chromium.find() or "chromium") as browser,
        ):
            page = browser.new_page(viewport=WIDE)
            url = f"{host.url}/api/dashboard?code={host.function_key}"
            page.goto(url)
            page.screenshot(path=images / "dashboard.png")
            page.goto(f"{url}&secret={names['rotated']}")
            page.get_by_role("button", name="Check").click()
            page.locator(".findings").wait_for()
            page.screenshot(path=images / "secret.png")
            page.emulate_media(color_scheme="dark")
            page.set_viewport_size(PHONE)
            page.goto(url)
            page.screenshot(path=images / "phone.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
