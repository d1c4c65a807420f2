"""Long lists in pages, as Azure's own APIs have them."""

import base64
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotators.errors import BadRequestError
from rotators.paging import next_link, page_size, read_cursor


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3).map(tuple))
def test_a_cursor_comes_back_as_it_was_given(cursor: tuple[str, ...]) -> None:
    """Whatever Key Vault's tokens look like, a client hands them back unharmed."""
    link = next_link("https://app.example/api/secrets", 7, cursor)
    query = dict(parse_qsl(urlsplit(link).query, strict_parsing=True))
    assert read_cursor(query, parts=len(cursor)) == cursor
    assert page_size(query) == 7


def test_a_link_leads_to_the_same_route_without_the_key() -> None:
    """P3: a function key in the address does not come back in an answer."""
    link = next_link("https://app.example/api/secrets?code=k3y&maxresults=5&x=y", 5, ("a",))
    assert link.startswith("https://app.example/api/secrets?maxresults=5&%24skiptoken=")
    assert "k3y" not in link


def test_without_a_cursor_it_is_the_first_page_of_a_hundred() -> None:
    assert read_cursor({}, parts=2) == ("", "")
    assert page_size({}) == 100


@pytest.mark.parametrize("size", ["0", "-1", "501", "1000", "x", "", "1.5", "٣", " 5"])
def test_a_page_size_that_is_none_is_refused(size: str) -> None:
    """P7: with what it may be."""
    with pytest.raises(BadRequestError, match="maxresults is not a whole number from 1 to 500"):
        page_size({"maxresults": size})


OTHERS = (b"[]", b"{}", b'["a"]', b"[1,2]", b"\xff", b'["","\\ud800"]')


@pytest.mark.parametrize("token", ["", "x", "!", "ä", *(base64.urlsafe_b64encode(t).decode() for t in OTHERS)])
def test_a_cursor_of_somebody_elses_is_refused(token: str) -> None:
    """P7: it says how to begin anew."""
    query: Mapping[str, str] = {"$skiptoken": token}
    with pytest.raises(BadRequestError, match="begin anew without it"):
        read_cursor(query, parts=2)
