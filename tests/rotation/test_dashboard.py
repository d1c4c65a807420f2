"""The page on real parts: what it asks of Key Vault and the database, and what its buttons do."""

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg
import pytest

from rotators.airflow import AirflowLook, Copy, RotatedConnection
from rotators.dashboard_requests import BrowserRequest, Page, answer
from rotators.errors import RotationError, TransientError
from rotators.outcome import TaskRef
from rotators.policy import read_state
from rotators.rotation import rotate
from tests.world import ADMIN_SECRET, World

OURS = {"sec-fetch-site": "same-origin"}
DAY = timedelta(days=1)


class Browser:
    """Asks as a browser does, and finds buttons by what stands on them."""

    def __init__(self, here: World, key: str = "a-function-key") -> None:
        self.here = here
        self.key = key
        self.who: Mapping[str, str] = {}
        self.page = Page(status=500, text="", headers={})  # type: ignore[arg-type]  # nothing asked yet

    def _ask(self, method: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes = b"") -> Page:
        query = {"code": self.key, **query}
        url = f"https://app.example/api/dashboard?{urlencode(query)}"
        self.page = answer(lambda: self.here.systems, BrowserRequest(method, url, query, {**self.who, **headers}, body))
        return self.page

    def get(self, **query: str) -> Page:
        return self._ask("GET", query, {})

    def post(self, token: str, *, headers: Mapping[str, str] = OURS, reason: str = "") -> Page:
        """Send a form; follow where it leads, as browsers do."""
        page = self._ask("POST", {}, headers, urlencode({"token": token, "reason": reason}).encode())
        if page.status != 303:
            return page
        return self.get(**dict(parse_qsl(urlsplit(page.headers["Location"]).query)))

    def token(self, label: str) -> str:
        found = re.search(rf'value="([^"]*)"[^>]*>{re.escape(label)}<', self.page.text)
        assert found, f"no button {label!r}"
        return unescape(found[1])

    def press(self, label: str, *, reason: str = "") -> Page:
        return self.post(self.token(label), reason=reason)

    @property
    def text(self) -> str:
        without_script = re.sub(r"<(style|script)>.*?</\1>", "", self.page.text, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", without_script)).split())


@pytest.fixture
def browser(here: World) -> Browser:
    return Browser(here)


def test_500_secrets_cost_20_pages_of_the_list_and_nothing_else(here: World, browser: Browser) -> None:
    """No request per secret, however many there are."""
    for number in range(500):
        here.vault.put(f"s{number}", "postgresql://u:p@h/d", tags={"rotation-strategy": "single-user"})
    browser.get()
    mark = len(here.vault.requests)
    assert browser.get().status == 200
    asked = here.vault.requests_since(mark)
    assert len(asked) == 20
    assert {(r.method, r.path.rstrip("/")) for r in asked} == {("GET", "/secrets")}
    assert "500 secrets under rotation" in browser.text


def test_a_secrets_page_reads_versions_and_no_value(here: World, browser: Browser) -> None:
    """Looking leaves no `SecretGet` in the vault's audit log, and no login in the database's."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name, by="ada"))
    mark = len(here.vault.requests)
    assert browser.get(secret=name).status == 200
    assert {r.path.rstrip("/") for r in here.vault.requests_since(mark)} == {f"/secrets/{name}/versions"}
    assert "by hand, ada" in browser.text
    assert here.value(name) not in browser.page.text


@pytest.mark.parametrize("strategy", ["alternating", "single"])
def test_rotate_asks_first_and_then_does_it(here: World, browser: Browser, strategy: str) -> None:
    """The question says what will happen and changes nothing; its answer does that, and says what was done."""
    name = here.alternating() if strategy == "alternating" else here.single()
    browser.get(secret=name)
    browser.press("Rotate…")
    assert "Rotate now?" in browser.text
    assert "gets a new password" in browser.text
    assert len(here.versions(name)) == 1
    browser.press("Rotate now", reason="quarterly <b>")
    assert len(here.versions(name)) == 2
    assert here.logs_in(name)
    assert re.search(r"Rotated, \d\d:\d\d:\d\d UTC why: quarterly <b>", browser.text)
    assert here.user_of(name) in browser.text


def test_a_confirmation_that_is_sent_twice_makes_one_version(here: World, browser: Browser) -> None:
    """P4: a double click, a reload, a retry of the browser."""
    name = here.single()
    browser.get(secret=name)
    browser.press("Rotate…")
    token = browser.token("Rotate now")
    for _ in range(2):
        assert browser.post(token).status == 200
        assert "Rotated" in browser.text
    assert len(here.versions(name)) == 2


def test_a_dry_run_changes_nothing_and_offers_the_rotation(here: World, browser: Browser) -> None:
    name = here.alternating()
    browser.get(secret=name)
    browser.press("Dry run")
    assert "Dry run" in browser.text
    assert f"{here.user_of(name)}_alt" in browser.text
    assert len(here.versions(name)) == 1
    assert browser.token("Rotate now")


def test_in_its_grace_it_is_refused_and_force_is_a_question_of_its_own(here: World, browser: Browser) -> None:
    """What breaks other users of the credential is not one click away."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    browser.get(secret=name)
    browser.press("Rotate…")
    assert "the other user stays usable until" in browser.text
    with pytest.raises(AssertionError):
        browser.token("Rotate now")
    browser.press("Plan it with force…")
    assert "who still uses that user's password can log in no more" in browser.text
    assert len(here.versions(name)) == 2
    browser.press("Rotate now")
    assert len(here.versions(name)) == 3


def test_pause_and_resume_change_one_tag_of_the_current_version(here: World, browser: Browser) -> None:
    """After a question each; nothing else of the secret changes."""
    name = here.alternating()
    before = here.vault.current(name)
    for label, state, said in (("Pause", "false", "Paused"), ("Resume", "true", "Resumed")):
        browser.get(secret=name)
        browser.press(f"{label}…")
        assert "Nothing else changes" in browser.text
        browser.press(label)
        assert said in browser.text
        now = here.vault.current(name)
        assert now.tags == {**before.tags, "rotation-enabled": state}
        assert (now.version, now.value, now.expires_on) == (before.version, before.value, before.expires_on)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "https://other.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {},
    ],
)
def test_a_form_of_another_site_does_nothing(here: World, browser: Browser, headers: Mapping[str, str]) -> None:
    """Also with a token that is good: 403, no version, no tag, and no login at the database."""
    name = here.alternating()
    browser.get(secret=name)
    tokens = [browser.token(label) for label in ("Rotate…", "Dry run", "Pause…", "Check")]
    browser.press("Rotate…")
    tokens.append(browser.token("Rotate now"))
    mark = len(here.vault.requests)
    for token in tokens:
        assert browser.post(token, headers=headers).status == 403
        assert "another site" in browser.text
    assert len(here.vault.requests) == mark
    assert len(here.versions(name)) == 1


def test_a_token_of_another_key_or_caller_or_none_does_nothing(here: World, browser: Browser) -> None:
    """Who cannot see the page cannot press its buttons."""
    name = here.alternating()
    browser.get(secret=name)
    browser.press("Rotate…")
    token = browser.token("Rotate now")
    assert Browser(here, key="another-key").post(token).status == 403
    assert browser.post("").status == 403
    assert browser.post(token[:-3] + "AAA").status == 403
    here.clock.advance(timedelta(hours=2))
    assert browser.post(token).status == 403
    assert "more than an hour ago" in browser.text
    assert len(here.versions(name)) == 1


def test_the_words_of_a_notice_are_this_pages_own(here: World, browser: Browser) -> None:
    """Nobody can send a link that makes the page say what did not happen, or that of another secret."""
    one, other = here.single(), here.single()
    browser.get(secret=one)
    browser.press("Rotate…")
    page = browser.press("Rotate now")
    assert "Rotated" in page.text
    browser.get(secret=one)
    browser.press("Rotate…")
    browser._ask("POST", {}, OURS, urlencode({"token": browser.token("Rotate now")}).encode())  # noqa: SLF001 (its own)
    said = dict(parse_qsl(urlsplit(browser.page.headers["Location"]).query))["said"]
    assert "Rotated" in browser.get(secret=one, said=said).text
    for wrong in (
        {"secret": other, "said": said},
        {"secret": one, "said": said[:-3] + "AAA"},
        {"secret": one, "said": "x"},
    ):
        assert browser.get(**wrong).status == 200
        assert "Rotated" not in browser.text


def test_check_says_who_still_uses_the_old_credential(here: World, browser: Browser) -> None:
    """One login of the admin, and only when it is asked for."""
    name = here.alternating()
    old = here.value(name)
    rotate(here.systems, here.trigger(name))
    with psycopg.connect(old, application_name="nightly report"):
        browser.get(secret=name)
        browser.press("Check")
        assert "1 open sessions still use the old credential" in browser.text
        assert "nightly report" in browser.text
    assert len(here.versions(name)) == 2


def test_check_knows_sessions_of_a_single_user_by_their_age(here: World, browser: Browser) -> None:
    """Who logged in before the password changed did so with the old one; who logged in since did not."""
    name = here.single()
    with psycopg.connect(here.value(name), application_name="came-before"):
        second = here.clock.now().replace(microsecond=0)
        while here.clock.now().replace(microsecond=0) == second:  # the state has whole seconds
            time.sleep(0.02)
        rotate(here.systems, here.trigger(name))
        with psycopg.connect(here.value(name), application_name="came-after"):
            browser.get(secret=name)
            browser.press("Check")
    assert "came-before" in browser.text
    assert "came-after" not in browser.text


class Airflow:
    """Says of every rotation what it was given to say; what a real one says is tested in tests/integration."""

    def __init__(self, says: AirflowLook | RotationError) -> None:
        self._says = says
        self.asked: list[str] = []

    treatment = "clear"

    def check(self) -> None:
        if isinstance(self._says, RotationError):
            raise self._says

    def check_logs(self) -> bool:
        return True

    def check_clearing(self) -> bool:
        return True

    def missing_dags(self, _: Sequence[str]) -> tuple[str, ...]:
        return ()

    def copies(self, _: RotatedConnection) -> tuple[Copy, ...]:
        return ()

    def look(self, rotated: RotatedConnection) -> AirflowLook:
        self.asked.append(rotated.rotation_id)
        if isinstance(self._says, RotationError):
            raise self._says
        return self._says


def test_check_says_what_became_of_airflows_tasks(here: World) -> None:
    """Retried, suspected, unknown, and what is still to be retried, for the rotation that made this version."""
    name = here.alternating()
    rotation = rotate(here.systems, here.trigger(name)).rotation_id
    one, two = TaskRef("daily_report", "run-1", "load", -1, "success"), TaskRef("other", "run-2", "sh", 3, "a shell")
    airflow = Airflow(AirflowLook(here.clock.now(), (one,), (), (two,), (), ("only a part",)))
    browser = Browser(here.app(airflow=airflow))
    browser.get(secret=name)
    browser.press("Check")
    assert airflow.asked == [rotation]
    for said in (
        "1 retried, 1 suspected, 0 unknown, 0 failed on the old credential",
        "daily_report / run-1 / load: success",
        "other / run-2 / sh [3]: a shell",
        "only a part",
    ):
        assert said in browser.text


def test_an_airflow_that_is_down_does_not_hide_the_rest_of_the_check(here: World) -> None:
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    browser = Browser(here.app(airflow=Airflow(TransientError("Airflow does not answer"))))
    browser.get(secret=name)
    browser.press("Check")
    assert "not tried airflow tasks Airflow does not answer" in browser.text
    assert "no open session uses the old credential" in browser.text


def test_check_says_what_to_mend_and_sends_no_alarm(here: World, browser: Browser) -> None:
    """P7: what stands in the way, in the words of the rotation; nothing failed, so no `Failed` event."""
    name = here.alternating(rotation_admin="no-such-admin")
    browser.get(secret=name)
    browser.press("Check")
    assert "the admin secret 'no-such-admin' that rotation-admin names does not exist" in browser.text
    browser.get(secret=name)
    assert browser.press("Rotate…").status == 422
    assert "create it or mend the tag" in browser.text
    assert here.topic.types == []


def test_an_unusable_policy_can_be_looked_at(here: World, browser: Browser) -> None:
    """Its page says what to mend, and offers no rotation."""
    name = here.alternating(rotation_every="60 days")
    browser.get(secret=name)
    assert "expected a duration like" in browser.text
    with pytest.raises(AssertionError):
        browser.token("Rotate…")


def test_a_secret_that_is_not_managed_or_not_there(here: World, browser: Browser) -> None:
    here.vault.put("plain", "x")
    browser.get(secret="plain")
    assert "Not under rotation" in browser.text
    assert "<form" not in browser.page.text
    assert browser.get(secret="no-such-secret").status == 404
    assert browser.get(secret="<b>").status == 400
    assert "<b>" not in browser.page.text.partition("<main")[2].partition("<h1>")[2]


def test_a_vault_that_is_down_is_a_page_as_well(here: World, browser: Browser) -> None:
    """With the status and the `Retry-After` of the API, and how to go on."""
    name = here.alternating()
    here.vault.fail(status=403, times=None)
    assert browser.get().status == 502
    assert "give the app's identity get, set, update and list" in browser.text
    assert browser.get(secret=name).status == 502


def test_hostile_tags_are_shown_as_text(here: World, browser: Browser) -> None:
    """Who may write one secret must not be able to act with the rights of who looks at it."""
    words = "<img src=x onerror=alert(1)>"
    name = here.alternating(rotation_every=words)
    for query in ({}, {"secret": name}, {"q": words}):
        assert browser.get(**query).status == 200
        assert "<img" not in browser.page.text
    assert words in browser.text


def test_who_pressed_the_button_is_noted(here: World, browser: Browser) -> None:
    """By key nobody knows; the state says so, as with the API."""
    name = here.single()
    browser.get(secret=name)
    browser.press("Rotate…")
    browser.press("Rotate now")
    state = read_state(here.tags(name))
    assert state is not None
    assert (state.cause, state.by) == ("http", "key")


def test_what_was_offered_to_one_person_is_not_done_by_another(here: World) -> None:
    """Where App Service says who it is, the state names who confirmed, and that is who was asked."""
    trusting = here.app(settings=dataclasses.replace(here.systems.settings, trust_principal=True))
    name, browser = here.single(), Browser(trusting)
    browser.who = {"x-ms-client-principal-name": "ada"}
    browser.get(secret=name)
    browser.press("Rotate…")
    token = browser.token("Rotate now")
    browser.who = {"x-ms-client-principal-name": "bob"}
    assert browser.post(token).status == 403
    assert "offered to somebody else" in browser.text
    browser.who = {"x-ms-client-principal-name": "ada"}
    browser.post(token)
    state = read_state(here.tags(name))
    assert state is not None
    assert state.by == "ada"


def test_every_answer_keeps_the_key_to_itself(here: World, browser: Browser) -> None:
    """The address holds it: no referrer to elsewhere, no frame, no store (that is the trigger's, see e2e)."""
    here.alternating()
    for query in ({}, {"secret": "no-such-secret"}, {"secret": ADMIN_SECRET}):
        headers = browser.get(**query).headers
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
