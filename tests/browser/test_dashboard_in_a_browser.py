"""The page in a real browser: clicked through, by keyboard, without script, on a phone, in the dark, and attacked."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from sandbox.http_service import HttpService, Response
from tests.browser.conftest import App, Visitor
from tests.browser.secrets_in_every_state import PREFIX

pytestmark = pytest.mark.timeout(600)

Visit = Callable[..., Visitor]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


# -- Looking -----------------------------------------------------------------------------------------------------


def test_what_needs_a_hand_is_on_top_and_leads_to_its_secret(visit: Visit, app: App) -> None:
    visitor = visit()
    needing = visitor.page.get_by_role("region", name="need a hand")
    for state in ("unusable policy", "failed", "overdue"):
        expect(needing.get_by_role("listitem").filter(has_text=state).first).to_be_visible()
    visitor.go(needing.get_by_role("link", name=app.names["failed"]))
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text(app.names["failed"])
    expect(visitor.page.get_by_text("verify still to do since").first).to_be_visible()


def test_a_filter_shows_one_state_and_can_be_taken_back(visit: Visit) -> None:
    visitor = visit()
    everything = visitor.rows
    visitor.go(visitor.page.get_by_role("navigation", name="Filter by state").get_by_role("link", name="pending"))
    assert visitor.rows == ["lake"]
    visitor.follow("Show everything")
    assert visitor.rows == everything


@pytest.mark.parametrize("scripts", [True, False])
def test_search_by_the_form(visit: Visit, scripts: bool) -> None:
    """The server searches; the state and the order go along."""
    visitor = visit(java_script_enabled=scripts)
    visitor.page.get_by_role("searchbox").fill("region")
    visitor.page.get_by_role("combobox", name="Sort by").select_option("due")
    visitor.page.get_by_role("combobox", name="State").select_option("fresh")
    visitor.press("Show")
    assert visitor.rows == [f"region-{n}" for n in range(7)]
    expect(visitor.page.get_by_role("searchbox")).to_have_value("region")


def test_typing_filters_at_once(visit: Visit) -> None:
    """For comfort, where there is a script; how many are shown is said to who cannot see it."""
    visitor = visit()
    visitor.page.get_by_role("searchbox").press_sequentially("ware")
    assert visitor.rows == ["warehouse"]
    expect(visitor.page.locator("#found")).to_contain_text("1 of the")
    visitor.page.get_by_role("searchbox").fill("")
    assert len(visitor.rows) > 10


def test_a_day_of_the_calendar_shows_its_secrets(visit: Visit) -> None:
    visitor = visit()
    visitor.go(visitor.page.locator(".days a").first)
    expect(visitor.page.locator("#found")).to_contain_text("on 20")
    assert "telemetry-eu" in visitor.rows
    assert "region-6" not in visitor.rows


# -- Acting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("secret", "scripts"), [("due", True), ("without script", False)])
def test_dry_run_rotate_and_be_refused(visit: Visit, app: App, secret: str, scripts: bool) -> None:
    """From the list to the rotation, and what a second one says, with script and without."""
    name = app.names[secret]
    visitor = visit(java_script_enabled=scripts)
    visitor.follow(name)
    visitor.press("Dry run")
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text("Dry run")
    visitor.follow("Back, change nothing")
    assert len(app.here.versions(name)) == 1
    visitor.press("Rotate…")
    expect(visitor.page.get_by_role("main")).to_contain_text("gets a new password")
    visitor.page.get_by_label("Reason").fill("an auditor asked")
    visitor.press("Rotate now")
    expect(visitor.page.get_by_role("status")).to_contain_text("an auditor asked")
    assert len(app.here.versions(name)) == 2
    assert app.here.logs_in(name)
    visitor.page.reload()
    assert len(app.here.versions(name)) == 2
    visitor.press("Rotate…")
    expect(visitor.page.get_by_role("main")).to_contain_text("the other user stays usable until")
    expect(visitor.page.get_by_role("button", name="Rotate now")).to_have_count(0)


def test_pause_and_resume(visit: Visit, app: App) -> None:
    name = app.names["fresh 0"]
    visitor = visit(f"&secret={name}")
    visitor.press("Pause…")
    assert "rotation-enabled" not in app.here.tags(name)
    visitor.press("Pause")
    expect(visitor.page.get_by_role("status")).to_contain_text("Paused")
    assert app.here.tags(name)["rotation-enabled"] == "false"
    visitor.press("Resume…")
    visitor.press("Resume")
    expect(visitor.page.get_by_role("status")).to_contain_text("Resumed")
    assert app.here.tags(name)["rotation-enabled"] == "true"


def test_check_asks_live_and_shows_the_findings(visit: Visit, app: App) -> None:
    visitor = visit(f"&secret={app.names['rotated']}")
    visitor.press("Check")
    for said in ("logs in", "no open session uses the old credential"):
        expect(visitor.page.get_by_role("region", name="Check")).to_contain_text(said)
    expect(visitor.page.get_by_role("region", name="Check")).to_contain_text("no open session uses the old credential")


def focus(page: Page, name: str) -> None:
    """Press Tab until what has this name has the focus, and can be seen to have it."""
    for _ in range(120):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "[document.activeElement.ariaLabel || document.activeElement.textContent.trim(),"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if focused[0] == name:
            assert focused[1] != "none"
            return
    pytest.fail(f"{name!r} cannot be reached by keyboard")


def test_all_of_it_by_keyboard(visit: Visit, app: App) -> None:
    """Skip link, secret, question, answer: no mouse."""
    name = app.names["by keyboard"]
    page = visit().page
    focus(page, "Skip to the content")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for label in (name, "Rotate…", "Rotate now"):
        focus(page, label)
        with page.expect_navigation():
            page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Rotated")
    assert len(app.here.versions(name)) == 2


# -- For everybody -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_no_page_is_a_barrier(visit: Visit, app: App, how: dict[str, object]) -> None:
    """No complaint of axe, contrast and names of controls among it, and nothing has to be scrolled sideways."""
    visitor = visit(**how)

    def look() -> None:
        found = Axe().run(visitor.page)
        assert found.violations_count == 0, found.generate_report()
        assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    look()
    visitor.page.goto(app.url("&state=overdue&q=nothing-like-that"))
    look()
    visitor.page.goto(app.url("&secret=no-such-secret"))
    look()
    visitor.page.goto(app.url(f"&secret={app.names['rotated']}"))
    look()
    visitor.press("Check")
    look()
    visitor.press("Rotate…")
    look()
    visitor.press("Plan it with force…")
    look()


def test_the_browser_has_nothing_to_complain_about(visit: Visit, app: App) -> None:
    """No violation of the policy, no error of the script, and not one request to elsewhere."""
    visitor = visit()
    visitor.follow(app.names["rotated"])
    visitor.press("Check")
    visitor.press("Dry run")
    assert visitor.complaints == []
    assert visitor.asked
    assert {url.partition("/api/")[0] for url in visitor.asked if not url.startswith("data:")} == {app.host.url}


# -- Attacked ----------------------------------------------------------------------------------------------------


def test_the_policy_stops_a_script_that_got_in(visit: Visit) -> None:
    """Were something not escaped, the browser would still not run it."""
    visitor = visit()

    def with_hole(route: Route) -> None:
        answer = route.fetch()
        hole = '<img src="data:," onerror="window.ran = 1"><script>window.ran = 2</script><p style="color: red">'
        route.fulfill(response=answer, body=answer.text().replace("<main", f"{hole}<main"))

    visitor.page.route("**/api/dashboard*", with_hole)
    visitor.page.reload()
    expect(visitor.page.locator("p[style]")).to_have_count(1)
    assert visitor.page.evaluate("window.ran") is None
    refused = " ".join(visitor.complaints)
    assert all(kind in refused for kind in ("inline event handler", "inline script", "inline style"))


def test_hostile_tags_do_nothing_in_a_browser(visit: Visit, app: App) -> None:
    words = "'\"><img src=x onerror=alert(1)><script>alert(2)</script>"
    name = f"{PREFIX}hostile"
    app.here.vault.put(name, "x", tags={"rotation-strategy": words, "rotation-every": words, words: words})
    visitor = visit()
    visitor.page.on("dialog", lambda dialog: visitor.complaints.append(dialog.message))
    visitor.follow(name)
    expect(visitor.page.get_by_role("main")).to_contain_text("<img src=x onerror=alert(1)>")
    assert visitor.complaints == []
    assert visitor.page.locator("img").count() == 0
    app.here.vault.delete(name)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_form_on_another_site_rotates_nothing(visit: Visit, browser: Browser, app: App, host: str) -> None:
    """Even one that has the key and a token: the browser says where it came from (cross-site, or another port)."""
    name = app.names["not yours"]
    visitor = visit(f"&secret={name}")
    visitor.press("Rotate…")
    token = visitor.page.get_by_role("button", name="Rotate now").get_attribute("value")
    form = f'<form method="post" action="{app.url()}"><button name="token" value="{token}">A kitten</button></form>'
    answer = Response(200, form.encode(), (("Content-Type", "text/html"),))
    with HttpService(lambda _: answer) as elsewhere:
        page = browser.new_context().new_page()
        page.goto(f"http://{host}:{elsewhere.port}/")
        page.get_by_role("button").click()
        expect(page.get_by_role("alert")).to_contain_text("a form of another site")
        page.context.close()
    assert len(app.here.versions(name)) == 1


def test_no_other_site_can_frame_it(browser: Browser, app: App) -> None:
    """A click meant for something else does not land on a button of ours."""
    frame = Response(200, f'<iframe src="{app.url()}"></iframe>'.encode(), (("Content-Type", "text/html"),))
    with HttpService(lambda _: frame) as elsewhere:
        page = browser.new_context().new_page()
        page.goto(elsewhere.url)
        page.wait_for_load_state("networkidle")
        assert "Credential rotation" not in page.frames[1].content()
        page.context.close()
