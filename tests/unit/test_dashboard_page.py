"""The page as text: what stands on it, what an attacker's words do to it, and who may press its buttons."""

import base64
import dataclasses
import hashlib
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import override
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotators import dashboard, dashboard_requests
from rotators.credential import Password
from rotators.dashboard import Button, Checked, Links, Notice, Question, Shown, TaskList
from rotators.dashboard_requests import BrowserRequest, Seal, check_same_site
from rotators.diagnosis import Finding, Result
from rotators.errors import CrossSiteError
from rotators.outcome import AirflowReport, Outcome, RetriedRun, TaskRef
from rotators.policy import RotationState
from rotators.settings import read_settings
from rotators.standing import Standing, stand
from rotators.vault import SecretVersion

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PREFIX = "airflow-connections"
SWEEPS = read_settings({"KEY_VAULT_URL": "https://v"}).sweeps
TAGS = {"rotation-strategy": "alternating-users", "rotation-admin": "postgres-admin"}
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 191 }}"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside: dict[str, str] = {}
        self._open = ""
        self.feed(page)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    @override
    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open in ("style", "script"):
            self.inside[self._open] = self.inside.get(self._open, "") + data

    @override
    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def all(self, tag: str, attribute: str) -> list[str]:
        return [a[attribute] or "" for t, a in self.elements if t == tag and attribute in a]

    @property
    def rows(self) -> list[str]:
        return [a["aria-label"] or "" for t, a in self.elements if t == "a" and "aria-label" in a]


def version(name: str, *, age: timedelta = 10 * DAY, **tags: str) -> SecretVersion:
    created = NOW - age
    named = TAGS | {tag.replace("_", "-"): value for tag, value in tags.items()}
    return SecretVersion(f"{PREFIX}-{name}", "v2", Password(""), named, None, True, created, created + 200 * DAY)


def standings(*versions: SecretVersion) -> list[Standing]:
    return [s for v in versions if (s := stand(v, prefix=PREFIX, now=NOW, sweeps=SWEEPS)) is not None]


def state(*, by: str = "timer", at: datetime = NOW - 10 * DAY, retired: datetime | None = None) -> str:
    return RotationState("id-1", "sweep", by, "v1", at, (), at + DAY, retired).as_tag()


def overview(*versions: SecretVersion, shown: Shown | None = None, code: str = "") -> Elements:
    page = dashboard.overview_page(standings(*versions), shown or Shown(), prefix=PREFIX, links=Links(code), now=NOW)
    return Elements(page)


FRESH = version("warehouse", rotation_state=state(retired=NOW - 9 * DAY))
OVERDUE = version("billing", age=70 * DAY)
DUE = version("lake", age=60 * DAY - timedelta(minutes=30))
PAUSED = version("crm", rotation_enabled="false")
UNUSABLE = version("sales", rotation_every="60 days")
ALL = (FRESH, OVERDUE, DUE, PAUSED, UNUSABLE)


# -- The overview ------------------------------------------------------------------------------------------------


def test_what_needs_a_hand_stands_first() -> None:
    """On call, one looks at the top of the page, and reads what to do there."""
    page = overview(*ALL)
    assert page.rows == [f"{PREFIX}-{name}" for name in ("sales", "billing", "lake", "crm", "warehouse")]
    assert "2 need a hand" in page.text
    assert page.text.index("expected a duration like") < page.text.index("The next 30 days")


def test_an_empty_vault_is_told_how_to_begin() -> None:
    assert "has the tag rotation-strategy" in " ".join(overview().text.split())


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        (Shown(words="ware"), ["warehouse"]),
        (Shown(words="WARE house"), ["warehouse"]),
        (Shown(words="single-user"), []),
        (Shown(words="postgres-admin", state="fresh"), ["warehouse"]),
        (Shown(state="needs a hand"), ["sales", "billing"]),
        (Shown(state="paused"), ["crm"]),
        (Shown(sort="name"), ["billing", "crm", "lake", "sales", "warehouse"]),
        (Shown(sort="due"), ["billing", "lake", "crm", "warehouse", "sales"]),
        (Shown(day=NOW.date(), sort="name"), ["billing", "lake"]),
    ],
)
def test_search_filter_and_order(shown: Shown, names: list[str]) -> None:
    """All of it is a link or a form of the server's: it needs no script."""
    assert overview(*ALL, shown=shown).rows == [f"{PREFIX}-{name}" for name in names]


def test_a_filter_says_how_many_it_would_show() -> None:
    found = dict(re.findall(r"(\S[a-z ]+\S) (\d+)\n", overview(*ALL).text))
    assert {"all": "5", "needs a hand": "2", "due": "1", "fresh": "1"}.items() <= found.items()


def test_more_than_500_secrets_are_paged() -> None:
    many = [version(f"{n:04}") for n in range(501)]
    assert len(overview(*many, shown=Shown(sort="name")).rows) == 500
    assert overview(*many, shown=Shown(sort="name", page=2)).rows == [f"{PREFIX}-0500"]


def test_the_calendar_counts_what_is_due_already_today() -> None:
    """Rotations on the day that they are planned, retirements and expiries on theirs; a paused one has no rotation."""
    in_grace = version("x", age=DAY / 2, rotation_state=state(at=NOW - DAY / 2))
    days = dashboard.calendar(standings(*ALL, in_grace), NOW)
    assert len(days) == 30
    assert (days[0].label, days[1].label) == ("Wed 25 Nov: 2 rotations", "Thu 26 Nov: 1 retirement")
    assert (days[2].label, days[0].height, days[1].height) == ("Fri 27 Nov: nothing", 100, 50)


@pytest.mark.parametrize(
    ("age", "gone"), [(timedelta(0), 0), (30 * DAY, 50), (59 * DAY, 98), (70 * DAY, 100), (-DAY, 0)]
)
def test_the_bar_says_how_much_of_the_way_is_gone(age: timedelta, gone: int) -> None:
    (one,) = standings(version("x", age=age))
    bar = dashboard.bar(one, NOW)
    assert bar is not None
    assert bar.gone == gone
    assert f"{gone} %" in bar.label


@pytest.mark.parametrize(
    ("rotation", "words"),
    [
        (None, "none"),
        (RotationState("i", "http", "", None, NOW, (), None), "none"),
        (RotationState("i", "http", "", None, NOW, (), NOW + DAY), "usable until"),
        (RotationState("i", "http", "", None, NOW - 2 * DAY, (), NOW - DAY), "to be retired since"),
        (RotationState("i", "http", "", None, NOW - 2 * DAY, (), NOW - DAY, NOW - DAY), "retired"),
        (RotationState("i", "http", "", None, NOW, (), NOW), "to be revoked since"),
        (RotationState("i", "http", "", None, NOW, (), NOW, NOW), "revoked"),
    ],
)
def test_what_became_of_the_old_credential(rotation: RotationState | None, words: str) -> None:
    assert dashboard.old_credential(rotation, NOW)[0] == words


# -- The secret's page -------------------------------------------------------------------------------------------


def secret_page(versions: list[SecretVersion], **changes: object) -> str:
    how = {"buttons": (), "checked": None, "notice": None, "links": Links(), "now": NOW} | changes
    standing = stand(versions[0], prefix=PREFIX, now=NOW, sweeps=SWEEPS)
    return dashboard.secret_page(versions[0].name, standing, versions, **how)  # type: ignore[arg-type]


def test_what_is_to_be_mended_stands_first_in_the_check() -> None:
    """Some thirty conditions are tried, and at night nobody reads the fine ones."""
    results: list[Result] = ["fine", "remark", "not tried", "fine", "mend", "remark"]
    findings = tuple(Finding(f"check-{n}", result, "said") for n, result in enumerate(results))
    page = Elements(secret_page([version("x")], checked=Checked(NOW, findings))).text
    places = [page.index(f"check {n}") for n in (4, 1, 5, 2, 0, 3)]
    assert places == sorted(places)
    assert "1 to mend, 2 remarks, 1 not tried, 2 fine." in page


def test_the_timeline_says_what_each_rotation_did() -> None:
    """Who, why, when, from which version, and what became of the credential of before."""
    first = dataclasses.replace(version("x", age=40 * DAY), version="v0", enabled=False)
    second = version("x", rotation_state=state(by="ada 1234", retired=NOW - 8 * DAY))
    page = Elements(secret_page([second, first])).text
    for said in (
        "the sweep, ada 1234",
        "took the place of v1",
        "retired 17 Nov 2026",
        "written by a person",
        "disabled",
    ):
        assert said in page
    assert page.index("the sweep, ada 1234") < page.index("written by a person")


def test_what_was_overtaken_is_not_told_as_pending() -> None:
    """Of an old version nothing is still to do, whatever its tag says."""
    old = dataclasses.replace(
        FRESH, tags=TAGS | {"rotation-state": RotationState("i", "http", "k", None, NOW, ("refresh",)).as_tag()}
    )
    (_, entry) = dashboard.timeline([FRESH, old], NOW)
    assert "was overtaken with this still to do: refresh" in entry.lines


def test_a_plan_in_sentences_names_user_airflow_and_the_end_of_the_old() -> None:
    """What a confirmation says is what will happen, for both strategies."""
    (standing,) = standings(FRESH)
    assert standing.policy is not None
    plan = Outcome("s", "planned", "", "http", strategy="alternating-users", user="app_alt", retire_at=NOW + DAY)
    lines = " ".join(dashboard.plan_lines(plan, standing.policy, airflow="update", now=NOW))
    for said in (
        "User app_alt gets a new password",
        "copies of connection warehouse are updated",
        "26 Nov 2026, 12:00",
    ):
        assert said in lines
    single = dataclasses.replace(plan, strategy="single-user")
    assert "The one of now stops to log in" in dashboard.plan_lines(single, standing.policy, airflow=None, now=NOW)[0]
    assert "Airflow" not in " ".join(dashboard.plan_lines(single, standing.policy, airflow=None, now=NOW))


def test_an_outcome_in_sentences_counts_what_airflow_retried() -> None:
    tasks = (RetriedRun("d", "r", (("a", -1), ("b", -1))),)
    suspected = (TaskRef("d", "r", "t", -1, "a shell"),)
    airflow = AirflowReport("healed", "cleared", tasks, suspected, (), 7)
    notice = dashboard.outcome_notice(Outcome("s", "rotated", "why", "http", airflow=airflow), now=NOW)
    assert "2 tasks retried, 1 suspected, 0 unknown, 7 examined" in notice.lines[-1]
    assert notice.is_good
    assert not dashboard.outcome_notice(Outcome("s", "skipped", "in grace", "http"), now=NOW).is_good


# -- What others wrote -------------------------------------------------------------------------------------------


def hostile_pages(words: str) -> list[str]:
    """Return every page with these words wherever others may have written them."""
    tags = {"rotation-strategy": words, "rotation-admin": words, "airflow-conn-id": words}
    version_ = SecretVersion(words, words, Password(""), tags, words, True, NOW, NOW + DAY)
    good = dataclasses.replace(version_, tags=TAGS | {"rotation-state": state().replace("timer", "x"), words: words})
    standing = dataclasses.replace(standings(FRESH)[0], secret=words, needs=(words,), next_step=words)
    rotation = RotationState(words, "http", words, words, NOW, (), NOW + DAY)
    standing = dataclasses.replace(standing, rotation=rotation)
    links, task = Links(words), TaskRef(words, words, words, 0, words)
    return [
        dashboard.overview_page(
            [standing, *standings(version_)], Shown(words=words), prefix=PREFIX, links=links, now=NOW
        ),
        dashboard.overview_page([standing, *standings(version_)], Shown(), prefix=PREFIX, links=links, now=NOW),
        dashboard.secret_page(
            words,
            standing,
            [good, version_],
            buttons=[Button(words, words)],
            checked=Checked(NOW, (Finding(words, "remark", words),), (TaskList(words, (task,)),)),
            notice=Notice(words, (words,)),
            links=links,
            now=NOW,
        ),
        dashboard.question_page(
            Question(words, words, (words,), (words,), (Button(words, words),), asks_reason=True), links=links, now=NOW
        ),
        dashboard.trouble_page(words, words, secret=words, links=links, now=NOW),
    ]


def plain_pages() -> list[str]:
    return hostile_pages("harmless")


@given(st.text(alphabet="<>\"'&/=`{}%# aonscriptl:\\\0\u2028", min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_nobodys_words_become_elements_or_attributes(words: str) -> None:
    """Tags, reasons, names and tokens are attackers' text: they show as text, whatever they are made of."""
    for page, plain in zip(hostile_pages(words), plain_pages(), strict=True):
        shape = [(tag, sorted(attributes)) for tag, attributes in Elements(page).elements]
        assert set(map(str, shape)) <= set(map(str, [(t, sorted(a)) for t, a in Elements(plain).elements])) | {
            # What does not match the search is not shown, and an empty search finds all.
            *map(str, [("p", []), ("a", ["href"])])
        }


def test_hostile_words_are_shown_as_they_are() -> None:
    for page in hostile_pages(HOSTILE):
        assert "<script>alert" not in page
        assert HOSTILE in Elements(page).text or HOSTILE in "".join(Elements(page).all("input", "value"))
        assert "1337" not in Elements(page).text.replace("{{ 7 * 191 }}", "")


@pytest.mark.parametrize("number", range(5))
def test_the_policy_allows_our_style_and_script_and_nothing_else(number: int) -> None:
    """No inline style or handler, nothing from elsewhere: what is not ours does not run."""
    page = Elements(plain_pages()[number])
    policy = dashboard.content_security_policy()
    for element in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.inside[element].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    for directive in ("default-src 'none'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"):
        assert directive in policy
    assert "unsafe" not in policy
    names = {name for _, attributes in page.elements for name in attributes}
    assert "style" not in names
    assert not {name for name in names if name.startswith("on")}
    addresses = [
        a for tag in ("a", "form", "link", "img", "script") for k in ("href", "src", "action") for a in page.all(tag, k)
    ]
    assert addresses
    assert all(a.startswith(("?", "#main")) or a == "data:," for a in addresses), addresses


def test_every_link_and_form_carries_the_key_and_no_other_does() -> None:
    """The host wants it in each request, and a link has no headers."""
    page = overview(*ALL, code="the key&more")
    links = [a for a in page.all("a", "href") if not a.startswith("#")]
    assert all(parse_qs(urlsplit(a).query)["code"] == ["the key&more"] for a in links)
    assert page.all("input", "value")[0] == "the key&more"
    assert not any("code" in a for a in overview(*ALL).all("a", "href"))


# -- Who may press a button --------------------------------------------------------------------------------------


def asked(**headers: str) -> BrowserRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return BrowserRequest("POST", "https://app.example/api/dashboard?code=k", {}, named)


@pytest.mark.parametrize(
    ("request_", "is_ours"),
    [
        (asked(sec_fetch_site="same-origin"), True),
        (asked(sec_fetch_site="same-origin", origin="https://behind-a-proxy.example"), True),
        (asked(origin="https://app.example"), True),
        (asked(sec_fetch_site="cross-site", origin="https://app.example"), False),
        (asked(sec_fetch_site="same-site"), False),
        (asked(sec_fetch_site="none"), False),
        (asked(origin="https://evil.example"), False),
        (asked(origin="https://app.example.evil.example"), False),
        (asked(origin="null"), False),
        (asked(origin=""), False),
        (asked(origin="http://["), False),
        (asked(origin="app.example"), False),
        (asked(), False),
    ],
)
def test_a_form_of_another_site_is_refused(request_: BrowserRequest, is_ours: bool) -> None:
    """What the browser says counts, since no page can make it say otherwise; saying nothing is not enough."""
    if is_ours:
        check_same_site(request_)
    else:
        with pytest.raises(CrossSiteError):
            check_same_site(request_)


def flipped(text: str) -> str:
    return text[:-2] + ("A" if text[-2] != "A" else "B") + text[-1]


@pytest.mark.parametrize(
    ("change", "key", "purpose", "later"),
    [
        (lambda t: t, "key", "offer", timedelta(minutes=61)),
        (lambda t: t, "key", "offer", timedelta(seconds=-61)),
        (lambda t: t, "other", "offer", timedelta(0)),
        (lambda t: t, "", "offer", timedelta(0)),
        (lambda t: t, "key", "said", timedelta(0)),
        (flipped, "key", "offer", timedelta(0)),
        (lambda t: t.partition(".")[0], "key", "offer", timedelta(0)),
        (lambda t: "." + t.partition(".")[2], "key", "offer", timedelta(0)),
        (lambda _: "", "key", "offer", timedelta(0)),
        (lambda _: "ä.ä", "key", "offer", timedelta(0)),
    ],
)
def test_a_token_is_only_good_as_it_was_given(
    change: Callable[[str], str], key: str, purpose: str, later: timedelta
) -> None:
    """Unchanged, for this purpose, with this key, within the hour."""
    token = Seal("key").seal("offer", {"act": "rotate"}, NOW)
    for late in (timedelta(minutes=59), timedelta(seconds=-59)):  # another instance's clock may be a little behind
        assert Seal("key").open("offer", token, NOW + late) == {"act": "rotate"}
    with pytest.raises(CrossSiteError):
        Seal(key).open(purpose, change(token), NOW + later)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, Shown()),
        (
            {"q": "x" * 300, "state": "overdue", "sort": "due", "page": "2", "day": "2026-11-30"},
            Shown("x" * 200, "overdue", date(2026, 11, 30), "due", 2),
        ),
        ({"state": "<b>", "sort": "size", "page": "0", "day": "soon"}, Shown()),
        ({"page": "-1"}, Shown()),
        ({"page": "99999999999999999999"}, Shown()),
        ({"page": "²"}, Shown()),
    ],
)
def test_a_query_that_makes_no_sense_is_as_good_as_none(query: dict[str, str], expected: Shown) -> None:
    assert dashboard_requests._shown(query) == expected  # noqa: SLF001 (pure, and the only reader of the query)


def test_versions_of_one_second_are_in_the_order_of_their_making() -> None:
    """`created` has whole seconds; the state says which was made from which. A loop of tags ends all the same."""

    class Vault:
        def __init__(self, *versions: SecretVersion) -> None:
            self._versions = versions

        def versions(self, _: str) -> list[SecretVersion]:
            return list(self._versions)

    def made(name: str, before: str | None) -> SecretVersion:
        tag = RotationState("i", "http", "k", before, NOW).as_tag()
        return dataclasses.replace(FRESH, version=name, tags=TAGS | {"rotation-state": tag})

    def order(*versions: SecretVersion) -> list[str]:
        world = type("Systems", (), {"vault": Vault(*versions)})
        return [v.version for v in dashboard_requests.versions_of(world, "x")]  # type: ignore[arg-type]

    a, b, c = made("a", None), made("b", "a"), made("c", "b")
    assert order(a, c, b) == order(b, a, c) == order(c, b, a) == ["c", "b", "a"]
    assert set(order(made("a", "b"), made("b", "a"))) == {"a", "b"}
