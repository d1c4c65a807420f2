"""What the pages say about the program and about each other; no network, and nothing is built."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotators.connection_secret import parse
from rotators.credential import Credential, Password
from rotators.errors import RotationError
from rotators.policy import ADMIN_FOR_TAG, POLICY_TAGS
from tests.messages import ERRORS, GAP, Message, messages
from tests.unit.test_structure import NOT_OURS, SETTINGS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
TROUBLESHOOTING = (DOCS / "troubleshooting.md").read_text()


def prose(page: Path) -> str:
    """Return a page without its code, in which brackets and hashes mean other things."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def rows(text: str, heading: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables below a heading, without the tables' own headings."""
    section = re.split(r"^##? ", text.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        for row in table.splitlines()[2:]:
            yield [cell.strip() for cell in row.strip("|").split(" | ")]


# -- Links -------------------------------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings where GitHub and the site call them the same."""
    # Code counts in a heading; a fence holds none.
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    names = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        letters = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        if (name := re.sub(r"\s", "-", letters)) == re.sub(r"[-\s]+", "-", letters):
            names.add(name)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_that_is_there(page: Path) -> None:
    """And to a heading that is there, where it names one; from a page of the site only to the site."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{page.name}: {link}"
        assert page.parent == ROOT or target.is_relative_to(DOCS), f"{page.name}: {link} leads out of the site"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_each_other_by_links(page: Path) -> None:
    """A path in plain code is a link that nobody checks."""
    assert re.findall(r"`docs/[\w/.-]+`", page.read_text()) == []


def test_every_page_has_its_place_in_the_site() -> None:
    """One that the navigation does not name is found by nobody."""
    navigation = re.findall(r"([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(navigation) == sorted(str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS))


# -- What is said about the program ------------------------------------------------------------------------------


def test_every_tag_and_setting_is_in_the_reference_and_no_other() -> None:
    """A name that is documented and not read, or the other way round, is a trap (P7)."""
    reference = (DOCS / "reference.md").read_text()
    tags, settings = (
        re.findall(r"`([\w-]+)`", " ".join(row[0] for row in rows(reference, heading)))
        for heading in ("## Tags", "## Settings")
    )
    assert sorted(tags) == sorted([*POLICY_TAGS, ADMIN_FOR_TAG])
    assert set(settings) == SETTINGS | NOT_OURS
    assert len(settings) == len(set(settings))


def test_every_format_is_shown_by_an_example_of_it() -> None:
    """Who copies one and fills in the password has a secret that is read as what the page calls it."""
    page = (DOCS / "putting-a-secret-under-rotation.md").read_text()
    read = {}
    for name, like in rows(page, "## The formats"):
        (value, *_) = re.findall(r"`([^`]+)`", like) if "bare" not in name else ("s3cr3t-pa55",)
        tags = {"CredentialId": "app", "ProviderAddress": "db.example.com/warehouse"}
        connection = parse(Password(value.replace("...", "s3cr3t-pa55")), secret="s", tags=tags)
        assert connection.credential == Credential("app", Password("s3cr3t-pa55"))
        assert connection.database == "warehouse"
        read[name.partition(",")[0].replace("`", "")] = connection.format
    assert read == {
        "Airflow connection URI": "airflow-uri",
        "Airflow connection JSON": "airflow-json",
        "libpq URI": "libpq-uri",
        "libpq key=value": "libpq-keywords",
        "AWS Secrets Manager JSON": "aws-json",
        "SQLAlchemy URL": "sqlalchemy-url",
        "a bare password": "bare-password",
    }


def test_every_command_of_ours_exists() -> None:
    """`make nothing-such` in a page is noticed here."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for page in PAGES for target in re.findall(r"(?:^ {4}|`)make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= named <= targets


# -- Troubleshooting: from the message to the mend ---------------------------------------------------------------


def listed() -> list[str]:
    """The messages that the page lists: the code in the first column of its tables, but for the table of kinds."""
    _, _, after_kinds = TROUBLESHOOTING.partition("\n## The kinds\n")
    tables = re.findall(r"(?:^\|.*\n)+", after_kinds.partition("\n## ")[2], re.MULTILINE)
    cells = [row.split(" | ")[0] for table in tables for row in table.splitlines()[2:]]
    return [pattern for cell in cells for pattern in re.findall(r"`([^`]+)`", cell)]


def matches(pattern: str, message: Message) -> bool:
    """Whether a pattern, whose gaps stand for anything, is in a message, or is one to the letter."""
    if pattern in TEXTS:
        return pattern == message.text
    return re.search(re.escape(pattern).replace(GAP, ".*"), message.text) is not None


def letters(text: str) -> int:
    return sum(character.isalpha() for character in text)


MESSAGES = messages()
TEXTS = {message.text for message in MESSAGES}


def test_the_sources_give_their_messages() -> None:
    """Some of each way to make one; had the reader of the sources gone blind, the others here would pass."""
    assert len(TEXTS) > 200
    assert {
        "secret …: its user … is none of rotation-users …; mend the tag or the secret",  # raised at once
        "…: … failed at …: …; another session holds it, and it is tried again",  # by a class that is a parameter
        "secret …: its JSON breaks off at line …, column …; correct it there",  # returned by a function
        "secret …: … can't log in at …: …; correct the connection, or the server",  # given to a name before
        "rotation-admin names no login after 'entra:'",  # a complaint about a tag
        "AZURE_TOKEN_CREDENTIALS is no name that azure-identity knows, such as AzureCliCredential or dev",
        "the other user stays usable until …",  # why nothing was done
        "the log has a refused login, but the task went on and failed with another error",  # named by a loop
        "version … did not log in; … was given its password",  # a warning
        "its VALID UNTIL has passed; run ALTER ROLE \"…\" VALID UNTIL 'infinity'",  # what keeps a user out
    } <= TEXTS


def test_every_error_of_the_program_is_in_the_page_once() -> None:
    """P7: who searches the page for a message finds it, and in one place."""
    patterns = listed()
    wrong = {}
    for message in MESSAGES:
        found = [pattern for pattern in patterns if matches(pattern, message)]
        if len(found) != 1:
            wrong[f"{message.where}: {message.text}"] = found
    assert not wrong


def test_the_page_has_no_error_that_the_program_does_not_have() -> None:
    """What is no longer said is no longer explained."""
    assert [pattern for pattern in listed() if not any(matches(pattern, message) for message in MESSAGES)] == []


def test_the_page_says_of_each_message_what_to_do() -> None:
    """From the message to the mend: a message alone the reader has already."""
    for table in re.findall(r"(?:^\|.*\n)+", TROUBLESHOOTING, re.MULTILINE):
        assert [row for row in table.splitlines()[2:] if not row.strip("|").split(" | ")[-1].strip()] == []


def test_the_page_says_enough_of_a_message_to_recognise_it() -> None:
    """A pattern of gaps would pass for any message: most of what is complained about has to be there."""
    for message in MESSAGES:
        (pattern,) = (pattern for pattern in listed() if matches(pattern, message))
        complaint = re.split("; |: ", re.sub(f"^(secret )?{GAP}: ", "", message.text))[0]
        assert letters(pattern) >= 0.6 * letters(complaint), f"{pattern!r} for {message.text!r}"


def test_the_page_has_every_kind_of_error_with_its_status() -> None:
    """The title is what the page, problem+json and the log line `rotation delayed` have in common."""
    kinds = {(kind.title, int(kind.status)) for kind in ERRORS.values() if kind is not RotationError}
    in_page = {(row[0].strip("`"), int(row[1])) for row in rows(TROUBLESHOOTING, "## The kinds")}
    # `PermanentError` itself is never raised.
    assert in_page == kinds - {(RotationError.title, int(RotationError.status))}
